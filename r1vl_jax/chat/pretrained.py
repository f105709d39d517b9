"""`r1vl_jax.load`: a model from a directory or the hub, which answers prompts and conversations.

Called with the outputs of a Hugging Face processor, it gives logits.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from r1vl_jax import config
from r1vl_jax.arrays import PromptBatch
from r1vl_jax.chat import generation
from r1vl_jax.chat.generation import Completion, Settings
from r1vl_jax.chat.messages import Messages, read_messages, read_prompt
from r1vl_jax.chat.prefix_reuse import PrefixReuse
from r1vl_jax.chat.prompter import Prompter, load_prompter
from r1vl_jax.checkpoint.hf.directory import local_directory, weights_fingerprint
from r1vl_jax.checkpoint.hf.load import load_params, read_config
from r1vl_jax.checkpoint.hf.peft import load_adapter
from r1vl_jax.data.processor import from_inputs
from r1vl_jax.data.prompts import EncodedPrompt
from r1vl_jax.models.qwen2_vl.model import Definition, Params
from r1vl_jax.models.trainable import combine
from r1vl_jax.sampling.weight_sync import sampler_params
from r1vl_jax.sharding.mesh import make_mesh
from r1vl_jax.sharding.rules import shardings

_DTYPES = ("float32", "bfloat16")


class Answer(str):
    """The text of an answer, without special tokens.

    Attributes:
        token_ids: with the end token, if there is one.
        has_ended: False if the answer was cut at the most new tokens.
    """

    token_ids: list[int]
    has_ended: bool

    @classmethod
    def of(cls, completion: Completion, prompter: Prompter) -> "Answer":
        answer = cls(prompter.decode(completion.token_ids))
        answer.token_ids, answer.has_ended = completion.token_ids, completion.has_ended
        return answer


@dataclass(frozen=True)
class Pretrained:
    """A model's definition with its parameters: `generate` and `chat` answer, calling it returns logits.

    Attributes:
        params: in the layout that the learner and the sampler use.
        directory: holds tokenizer, chat template and image processor; None for logits alone.
        adapter: directory of the LoRA adapter, whose instruction counts; None without one.
    """

    definition: Definition
    params: Params
    directory: Path | None = None
    adapter: Path | None = None

    def identify(self, settings: Settings) -> dict[str, Any]:
        """What decides the answers of the model, as JSON values: digests of its weights, dtype and settings."""
        directories = {"weights": self.directory, "adapter": self.adapter}
        prints = {kind: "" if each is None else weights_fingerprint(str(each)) for kind, each in directories.items()}
        return {"dtype": self.definition.dtype} | prints | vars(settings)

    def generate(
        self,
        prompts: str | Sequence[str | Messages],
        images: Any = None,
        videos: Any = None,
        *,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        n: int = 1,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        instruction: str | None = None,
    ) -> Any:
        """Answers prompts, several of them in one batch.

        Args:
            prompts: a text, or a list of texts and conversations. A text has one `<image>` for each of its pictures, or
                none: then they come first.
            images: the pictures of a text: a path, the bytes of a file, a data URL, a PIL image, or a list of these;
                for a list of prompts one such entry each, None for a prompt without pictures.
            videos: likewise; a video is a list of its frames, two a second. They come before pictures and text. Another
                rate is given in messages.
            max_new_tokens: of an answer; it ends earlier at the model's end tokens.
            temperature: 0 takes the likeliest token each time.
            n: answers to each prompt; more than one need a temperature.
            top_k, top_p: sample from the likeliest tokens only; 0 and 1 from all.
            seed: the same seed and prompts give the same answers.
            instruction: how to answer, put after leading pictures and before the question; by default the one that the
                model was trained with, if any; "" for none.

        Returns:
            An `Answer`, a string, for one text and n=1; with n a list of them; for a list of prompts a list of these.

        Raises:
            ValueError: a prompt, a picture or a setting cannot be used; names it.
        """
        settings = Settings(max_new_tokens, temperature, n, top_k, top_p, seed)
        if not isinstance(prompts, (str, list, tuple)):
            raise ValueError(f"prompts: expected a text, or a list of texts and conversations, got {prompts!r:.60}")
        if is_single := isinstance(prompts, str):
            prompts, images, videos = [prompts], [images], [videos]
        images, videos = _of_each_prompt("images", images, prompts), _of_each_prompt("videos", videos, prompts)
        encoded = [
            self._encode(f"prompt {number}", prompt, pictures, clips, instruction)
            for number, (prompt, pictures, clips) in enumerate(zip(prompts, images, videos, strict=True), start=1)
        ]
        answers = self.answer(encoded, settings) if encoded else []
        answers = answers if n > 1 else [answer for (answer,) in answers]
        return answers[0] if is_single else answers

    def chat(self, messages: Messages, **settings: Any) -> Any:
        """Answers a conversation in Hugging Face's form, see `messages.read_messages`.

            model.chat([{"role": "user", "content": [{"type": "image", "image": "a.png"},
                                                     {"type": "text", "text": "What is it?"}]}])

        Args:
            messages: with system prompt, earlier turns and pictures; the last one is the user's.
            settings: those of `generate`.

        Returns:
            An `Answer`, a string; with n a list of them.

        Raises:
            ValueError: the conversation, a picture or a setting cannot be used; names it.
        """
        return self.generate([messages], **settings)[0]

    def stream(
        self,
        prompt: str | Messages,
        images: Any = None,
        videos: Any = None,
        *,
        max_new_tokens: int = 512,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        instruction: str | None = None,
    ) -> Iterator[str]:
        """Answers one prompt or conversation, piece by piece.

            for piece in model.stream("What is it?", "a.png"):
                print(piece, end="", flush=True)

        Args:
            prompt, images, videos, settings: as in `generate`.

        Yields:
            Parts of the answer that `generate` gives.

        Raises:
            ValueError: the prompt, a picture or a setting cannot be used; names it.
        """
        settings = Settings(max_new_tokens, temperature, 1, top_k, top_p, seed)
        encoded = self._encode("the prompt", prompt, images, videos, instruction)
        return self._pieces(encoded, settings)

    def _pieces(self, encoded: EncodedPrompt, settings: Settings) -> Iterator[str]:
        sampler = generation.make_sampler(self.definition, settings, self.prompter.eos_token_ids)
        given = text = ""
        for completion in generation.stream(sampler, self.params, self._decoder_params, encoded, settings):
            text = self.prompter.decode(completion.token_ids)
            if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # else a character may still lack bytes
                yield text[len(given) :]
                given = text
        if given != text:
            yield text[len(given) :]

    @functools.cached_property
    def prompter(self) -> Prompter:
        """How the model is asked. Raises what `load_prompter` raises."""
        if self.directory is None:
            raise ValueError("this model has no tokenizer: load it with r1vl_jax.load")
        return load_prompter(self.directory, instruction_from=self.adapter)

    @functools.cached_property
    def _decoder_params(self) -> Params:
        """The sampler's copy of the decoder, made once."""
        return sampler_params(generation.make_sampler(self.definition, Settings(), ()), self.params)

    def _encode(self, name: str, prompt: Any, images: Any, videos: Any, instruction: str | None) -> EncodedPrompt:
        instruction = self.prompter.instruction if instruction is None else instruction
        try:
            if not isinstance(instruction, str):
                raise ValueError(f"instruction: expected a text, got {instruction!r:.60}")
            if not isinstance(prompt, str) and (images is not None or videos is not None):
                raise ValueError("pictures and videos of a conversation stand in its messages, not in images or videos")
            messages = read_prompt(prompt, images, videos) if isinstance(prompt, str) else prompt
            return self.prompter.encode(read_messages(messages, instruction=instruction))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error

    def answer(
        self, encoded: Sequence[EncodedPrompt], settings: Settings, reuse: PrefixReuse | None = None
    ) -> list[list[Answer]]:
        """`settings.n` answers to each of at least one encoded prompt, in one batch.

        Args:
            reuse: of calls of this model; what prompts share with earlier ones is not read again.
        """
        sampler = generation.make_sampler(self.definition, settings, self.prompter.eos_token_ids)
        completions = generation.generate(sampler, self.params, self._decoder_params, encoded, settings, reuse)
        return [[Answer.of(each, self.prompter) for each in of_prompt] for of_prompt in completions]

    def __call__(
        self,
        *,
        input_ids: np.ndarray,
        attention_mask: np.ndarray | None = None,
        mm_token_type_ids: np.ndarray | None = None,
        pixel_values: np.ndarray | None = None,
        image_grid_thw: np.ndarray | None = None,
        pixel_values_videos: np.ndarray | None = None,
        video_grid_thw: np.ndarray | None = None,
        second_per_grid_ts: np.ndarray | None = None,
    ) -> Float[Array, "B T V"]:
        """Float32 logits at every position; those at padding, on either side, are meaningless.

        Args:
            input_ids: token ids [B, T], with one image token for every merged patch.
            attention_mask: [B, T], nonzero where a token is real; by default all are.
            mm_token_type_ids: [B, T], 0 text, 1 image, 2 video; by default derived from the token ids.
            pixel_values, pixel_values_videos: patches of all images, and of all videos, concatenated.
            image_grid_thw, video_grid_thw: frames, rows and columns of each, in patches.
            second_per_grid_ts: seconds from one frame pair to the next, for each video; 1 by default. Qwen2.5-VL only.

        Raises:
            ValueError: token ids are outside the vocabulary, images do not match the image tokens, or
                `second_per_grid_ts` does not match the videos or the model.
        """
        given = {name: value for name, value in locals().items() if name != "self" and value is not None}
        model = self.definition.config
        if np.min(input_ids) < 0 or np.max(input_ids) >= model.vocab_size:
            raise ValueError(
                f"input_ids: expected ids from 0 to {model.vocab_size - 1}, got {np.min(input_ids)} to"
                f" {np.max(input_ids)}; were they made by the tokenizer of this model?"
            )
        inputs = from_inputs(
            given,
            image_token_id=model.image_token_id,
            video_token_id=model.video_token_id,
            tokens_per_second=model.vision.tokens_per_second,
        )
        return _logits(self.definition, self.params, inputs)


def _of_each_prompt(name: str, given: Any, prompts: Sequence[Any]) -> Sequence[Any]:
    """What was given with each of several prompts; None for every prompt if nothing was given.

    Raises:
        ValueError: there is another number of them.
    """
    if given is None:
        return [None] * len(prompts)
    if not isinstance(given, (list, tuple)) or len(given) != len(prompts):
        got = len(given) if isinstance(given, (list, tuple)) else type(given).__name__
        raise ValueError(
            f"{name}: expected a list with an entry for each of {len(prompts)} prompts, None where there is none, got"
            f" {got}"
        )
    return given


def load(
    directory_or_hub_name: str,
    dtype: str = "float32",
    mesh: jax.sharding.Mesh | None = None,
    *,
    param_dtype: str = "float32",
    adapter: str | Path | None = None,
) -> Pretrained:
    """Loads a Qwen2-VL or Qwen2.5-VL.

    Args:
        directory_or_hub_name: a directory with config.json and safetensors, or a name like Qwen/Qwen2-VL-2B-Instruct.
        dtype: of the computation.
        mesh: devices that the parameters are sharded over, by the rules of `sharding`; by default the first device.
        param_dtype: of the parameters; bfloat16 needs half the memory. An adapter's are float32.
        adapter: directory of a LoRA adapter in PEFT's format, which is added to the model and not merged.

    Raises:
        FileNotFoundError: there is no such directory, on this machine or on the hub, or none of the adapter.
        ValueError: it is another model, its tensors do not match its configuration, the adapter not the model, or a
            dtype is unknown.
    """
    for name, value in {"dtype": dtype, "param_dtype": param_dtype}.items():
        if value not in _DTYPES:
            raise ValueError(f"{name}: expected {' or '.join(_DTYPES)}, got {value!r}")
    if adapter is not None and not Path(adapter).is_dir():
        raise FileNotFoundError(
            f"adapter: {adapter} is no directory; expected one with adapter_config.json and adapter_model.safetensors"
        )
    mesh = make_mesh(config.Mesh(), jax.devices()[:1]) if mesh is None else mesh
    platform = mesh.devices.flat[0].platform
    definition = Definition(read_config(directory_or_hub_name), dtype, platform=platform, mesh=mesh)
    placement = shardings(definition.abstract_params(), mesh)
    lora = None if adapter is None else load_adapter(adapter, definition)  # before the weights, which take a while
    params = load_params(directory_or_hub_name, definition, placement=placement, dtype=param_dtype)
    directory = local_directory(directory_or_hub_name)
    if lora is None or adapter is None:
        return Pretrained(definition, params, directory)
    definition = dataclasses.replace(definition, lora=lora[0])
    added = jax.device_put(lora[1], shardings(lora[1], mesh))
    return Pretrained(definition, combine(added, params), directory, Path(adapter))


@partial(jax.jit, static_argnums=0)
def _logits(definition: Definition, params: Params, inputs: PromptBatch) -> Float[Array, "B T V"]:
    model = definition.bind(params)
    hidden_BTD, _ = model.prefill(inputs, model.image_features(inputs.vision))
    return jnp.matmul(hidden_BTD, model.head(), preferred_element_type=jnp.float32)
