"""The torch sides: transformers' `generate`, and a plain GRPO training step around it."""

import contextlib
import copy
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, Qwen2VLForConditionalGeneration

from benchmarks.side_by_side.work import BETA, LEARNING_RATE, MAX_GRAD_NORM, Work, alternating_reward
from benchmarks.side_by_side.worker import Channel, Stopwatch, Timings, serve_requests

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Transformers:
    """Generation only."""

    compile_s = 0.0

    def __init__(self, work: Work):
        self._load(work, weights=work.dtype)

    def _load(self, work: Work, *, weights: str) -> None:
        arrays = {name: torch.as_tensor(array).to(DEVICE) for name, array in np.load(work.inputs).items()}
        self._check_token_BT, self._suppressed = arrays.pop("check_tokens"), arrays.pop("suppressed").tolist()
        self._work, self._prompts, self._mixed = work, arrays, weights != work.dtype
        self._model: Any = Qwen2VLForConditionalGeneration.from_pretrained(work.model, dtype=weights)
        self._model.to(DEVICE).eval()

    def check(self) -> dict[str, Any]:
        """Log-probabilities of the given completions."""
        with torch.no_grad():
            return {"logp": self._logp(self._model, self._check_token_BT).tolist()}

    def repeat(self) -> Timings:
        """Generates; then generates one token only, which times the prefill."""
        watch = Stopwatch()
        with watch("generation"):
            token_BT = self._generate(self._work.new_tokens)
        with watch("prefill"):
            self._generate(1)
        return watch.timings({token_BT.numel()})

    def device_peak_gib(self) -> float | None:
        """Peak memory of the accelerator; None without one."""
        return torch.cuda.max_memory_allocated() / 2**30 if DEVICE.type == "cuda" else None

    def _generate(self, num_tokens: int) -> torch.Tensor:
        """Completions [B, T]; those of a prompt are adjacent rows."""
        settings = GenerationConfig(
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            num_return_sequences=self._work.num_generations,
            min_new_tokens=num_tokens,
            max_new_tokens=num_tokens,
            suppress_tokens=self._suppressed,
        )
        with self._autocast():
            sequences_BS = self._model.generate(**self._prompts, generation_config=settings)
        _wait()
        return sequences_BS[:, self._prompts["input_ids"].shape[1] :]

    def _logp(self, model: Any, token_BT: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the tokens of completions, [B, T]."""
        rows = {name: self._repeat_per_completion(name, tensor) for name, tensor in self._prompts.items()}
        for name, value in {"input_ids": token_BT, "attention_mask": 1, "mm_token_type_ids": 0}.items():
            rows[name] = torch.cat([rows[name], torch.zeros_like(token_BT) + value], dim=1)
        with self._autocast():
            logits_BTV = model(**rows, use_cache=False, logits_to_keep=token_BT.shape[1] + 1).logits[:, :-1].float()
        return logits_BTV.gather(-1, token_BT[..., None])[..., 0] - logits_BTV.logsumexp(-1)

    def _repeat_per_completion(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Repeats a prompt's input for each of its completions; patches of all images are concatenated."""
        if name != "pixel_values":
            return tensor.repeat_interleave(self._work.num_generations, dim=0)
        prompt_PMC = tensor.reshape(self._work.num_prompts, -1, tensor.shape[-1])
        return prompt_PMC.repeat_interleave(self._work.num_generations, dim=0).flatten(0, 1)

    def _autocast(self) -> contextlib.AbstractContextManager:
        """Autocast to bfloat16 if the weights are float32."""
        return torch.autocast(DEVICE.type, torch.bfloat16) if self._mixed else contextlib.nullcontext()


class Plain(Transformers):
    """Generation, reference log-probs, GRPO loss and AdamW in plain torch; weights are float32."""

    def __init__(self, work: Work):
        self._load(work, weights="float32")
        if work.recompute:
            self._model.gradient_checkpointing_enable({"use_reentrant": False})
        self._reference = copy.deepcopy(self._model).requires_grad_(False)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)

    def check(self) -> dict[str, Any]:
        """Log-probabilities of the given completions, and the gradient norm of an update on them."""
        ref_logp_BT = self._reference_logps(self._check_token_BT)
        grad_norm = self._update(self._check_token_BT, ref_logp_BT)
        return {"logp": ref_logp_BT.tolist(), "grad_norm": grad_norm}

    def repeat(self) -> Timings:
        watch = Stopwatch()
        with watch("step", times=self._work.steps):
            for _ in range(self._work.steps):
                with watch("generation"):
                    token_BT = self._generate(self._work.new_tokens)
                with watch("reference"):
                    ref_logp_BT = self._reference_logps(token_BT)
                with watch("update"):
                    self._update(token_BT, ref_logp_BT)
        with watch("prefill"):
            self._generate(1)
        return watch.timings({token_BT.numel()})

    def _reference_logps(self, token_BT: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            logp_BT = self._logp(self._reference, token_BT)
        _wait()
        return logp_BT

    def _update(self, token_BT: torch.Tensor, ref_logp_BT: torch.Tensor) -> float:
        """One step of AdamW; returns the gradient norm before clipping."""
        advantage_B1 = self._advantage().to(DEVICE)
        self._model.train(self._work.recompute)  # gradient checkpointing needs train mode; there is no dropout
        logp_BT = self._logp(self._model, token_BT)
        ratio_BT = torch.exp(logp_BT - logp_BT.detach())
        difference_BT = ref_logp_BT - logp_BT
        k3_BT = torch.exp(difference_BT) - difference_BT - 1
        loss = -(ratio_BT * advantage_B1 - BETA * k3_BT).mean(dim=1).mean()
        loss.backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), MAX_GRAD_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._model.eval()
        _wait()
        return float(grad_norm)

    def _advantage(self) -> torch.Tensor:
        rows = list(range(self._work.num_rows))
        reward_PG = torch.tensor(alternating_reward(rows, rows)).reshape(self._work.num_prompts, -1)
        difference_PG = reward_PG - reward_PG.mean(dim=1, keepdim=True)
        return (difference_PG / (reward_PG.std(dim=1, keepdim=True) + 1e-4)).reshape(-1, 1)


def serve_generation(work: Work, channel: Channel) -> None:
    serve_requests(Transformers(work), channel)


def serve_steps(work: Work, channel: Channel) -> None:
    serve_requests(Plain(work), channel)


def _wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
