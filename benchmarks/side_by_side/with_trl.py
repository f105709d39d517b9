"""The side of TRL: GRPOTrainer, paused between steps by a callback until the next repeat is requested."""

import base64
import io
import json
import time
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from transformers import (
    AutoTokenizer,
    ProcessorMixin,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer

from benchmarks.side_by_side.work import BETA, LEARNING_RATE, MAX_GRAD_NORM, Work, alternating_reward
from benchmarks.side_by_side.worker import Channel, Stopwatch

_IMAGE_TOKEN = "<|image_pad|>"


class ImageTextProcessor(ProcessorMixin):
    """Qwen2-VL's processor without its video processor, which needs torchvision."""

    return_mm_token_type_ids = True
    image_token = _IMAGE_TOKEN

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None):
        self.image_token_id = tokenizer.convert_tokens_to_ids(_IMAGE_TOKEN)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def replace_image_token(self, image_inputs: dict, image_idx: int, **_: Any) -> str:
        """One image token per merged patch."""
        num_patches = int(image_inputs["image_grid_thw"][image_idx].prod())
        return self.image_token * (num_patches // self.image_processor.merge_size**2)


class _StepTimer(TrainerCallback):
    """Times the steps of every repeat; the first repeat is the warm-up."""

    def __init__(self, channel: Channel, steps: int):
        self._channel, self._steps, self._is_warm = channel, steps, False
        self._done = 0  # steps of the repeat
        self.watch, self.num_tokens = Stopwatch(), set()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._done == 0:
            self._start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._done = (self._done + 1) % self._steps
        if self._done:
            return
        self.watch.seconds["step"] = (time.perf_counter() - self._start) / self._steps
        if self._is_warm:
            self._channel.send_timings(self.watch.timings(self.num_tokens))
        else:
            self._is_warm = True
            self._channel.send_ready({})
        self.num_tokens.clear()
        control.should_training_stop = not self._channel.wait_for_request()


def serve(work: Work, channel: Channel) -> None:
    """Trains until no further repeat is requested."""
    timer = _StepTimer(channel, work.steps)

    def reward(prompts: list, completions: list, completion_ids: list, **columns: Any) -> list[float]:
        timer.num_tokens.add(sum(map(len, completion_ids)))
        return alternating_reward(prompts, completions)

    model: Any = Qwen2VLForConditionalGeneration.from_pretrained(work.model, dtype="float32")
    generate = model.generate

    def timed_generate(*arguments: Any, **settings: Any) -> Any:
        with timer.watch("generation"):
            return generate(*arguments, **settings)

    model.generate = timed_generate
    trainer = GRPOTrainer(
        model,
        reward,
        args=_settings(work),
        train_dataset=_prompts(work),
        processing_class=_processor(work),
        callbacks=[timer],
    )
    trainer.train()
    channel.send_memory(torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None)


def _settings(work: Work) -> GRPOConfig:
    suppressed = np.load(work.inputs)["suppressed"].tolist()
    return GRPOConfig(
        output_dir=str(work.directory / "trl"),
        per_device_train_batch_size=work.num_rows,
        num_generations=work.num_generations,
        max_completion_length=work.new_tokens,
        generation_kwargs={"min_new_tokens": work.new_tokens, "suppress_tokens": suppressed},
        temperature=1.0,
        beta=BETA,
        loss_type="grpo",
        learning_rate=LEARNING_RATE,
        max_grad_norm=MAX_GRAD_NORM,
        gradient_checkpointing=work.recompute,
        bf16=work.dtype == "bfloat16",
        max_steps=1_000_000,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _prompts(work: Work) -> Dataset:
    """The same questions and images as on the other sides."""
    texts = json.loads(work.texts.read_text())
    rows = [
        {"prompt": [{"role": "user", "content": text}], "image": Image.open(io.BytesIO(base64.b64decode(image)))}
        for text, image in texts
    ]
    return Dataset.from_list(rows)


def _processor(work: Work) -> ImageTextProcessor:
    tokenizer = AutoTokenizer.from_pretrained(work.model)
    image_processor = Qwen2VLImageProcessorPil.from_pretrained(work.model)
    return ImageTextProcessor(image_processor, tokenizer, chat_template=tokenizer.chat_template)
