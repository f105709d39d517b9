"""How a model is asked: its tokenizer with its chat template, its image processor, its instruction and end tokens."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from r1vl_jax import config
from r1vl_jax.chat.messages import Conversation, Turn
from r1vl_jax.checkpoint.hf.atomic_directory import INSTRUCTION
from r1vl_jax.checkpoint.hf.chat_template import load_chat_tokenizer
from r1vl_jax.checkpoint.model_config import model_config
from r1vl_jax.data.chat_format import eos_token_ids
from r1vl_jax.data.images import TEMPORAL_PATCH_SIZE, image_patches, load_image_processor, num_features, video_patches
from r1vl_jax.data.prompts import EncodedPrompt, Processor
from r1vl_jax.data.user_text import UserText


@dataclass(frozen=True)
class Prompter:
    """What a checkpoint's files say about its prompts and answers.

    Attributes:
        instruction: that the model was trained with (`instruction.txt` of an export); "" if there is none.
        eos_token_ids: each of them ends an answer.
        tokens_per_second: temporal positions in a second of video; None where they count pairs of frames.
    """

    processor: Processor
    instruction: str
    eos_token_ids: tuple[int, ...]
    tokens_per_second: int | None

    def encode(self, conversation: Conversation) -> EncodedPrompt:
        """Renders a conversation with the chat template, up to the header of the assistant's turn, and tokenizes it.

        Special tokens in the texts stay text; only the template writes control tokens.

        Raises:
            ValueError: a picture is too narrow, or the template cannot write this conversation.
        """
        processor = self.processor
        images = tuple(image_patches(image, processor.image_processor) for image in conversation.images)
        videos = tuple(video_patches(video.frames, processor.image_processor) for video in conversation.videos)
        token_S = np.array(processor.user_text.encode(self._render(conversation)), np.int32)
        # One placeholder token for every merged patch.
        repeats_S = np.ones(len(token_S), int)
        kinds = {"pictures": (images, processor.image_token_id), "videos": (videos, processor.video_token_id)}
        for kind, (visions, token_id) in kinds.items():
            is_vision_S = token_S == token_id
            if (number := int(is_vision_S.sum())) != len(visions):
                raise ValueError(
                    f"the chat template writes {number} {kind} of {len(visions)}; is it that of this model?"
                )
            repeats_S[is_vision_S] = [num_features(grid) for _, grid in visions]
        token_S = np.repeat(token_S, repeats_S)
        # A pair of frames becomes one patch.
        seconds = [TEMPORAL_PATCH_SIZE / video.fps for video in conversation.videos]
        intervals = tuple(1.0 if self.tokens_per_second is None else self.tokens_per_second * each for each in seconds)
        return EncodedPrompt(token_S, processor.types(token_S), images, videos, intervals)

    def decode(self, token_ids: list[int]) -> str:
        """The text of an answer, without special tokens."""
        return self.processor.tokenizer.decode(token_ids, skip_special_tokens=True)

    def _render(self, conversation: Conversation) -> str:
        turns = [_protect(turn, self.processor.user_text) for turn in conversation.turns]
        try:
            return self.processor.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template is a program, and may raise anything
            raise ValueError(f"the chat template cannot write it ({type(error).__name__}: {error})") from error


def load_prompter(directory: Path, *, instruction_from: Path | None = None) -> Prompter:
    """Reads what belongs to a checkpoint's weights; pictures are resized within the limits that its files state.

    Args:
        instruction_from: the directory with the instruction, as that of an adapter; by default the checkpoint's.

    Raises:
        FileNotFoundError, ValueError: the files are absent or damaged, or not those of the weights.
    """
    try:
        tokenizer, template = load_chat_tokenizer(directory)
    except OSError as error:
        raise ValueError(f"{directory}: expected the tokenizer of the model ({error})") from error
    if template is None:
        raise ValueError(
            f"{directory}: expected a chat template, such as chat_template.json; put that of the model there"
        )
    sizes = model_config(config.Model(path=str(directory)), tokenizer)
    path = (instruction_from or directory) / INSTRUCTION
    return Prompter(
        processor=Processor(tokenizer, load_image_processor(directory)),
        instruction=path.read_text("utf-8").strip() if path.is_file() else "",
        eos_token_ids=tuple(eos_token_ids(tokenizer, directory)),
        tokens_per_second=sizes.vision.tokens_per_second,
    )


def _protect(turn: Turn, user_text: UserText) -> Turn:
    content = turn["content"]
    if isinstance(content, str):
        return turn | {"content": user_text.protect(content)}
    parts = [part | {"text": user_text.protect(part["text"])} if part["type"] == "text" else part for part in content]
    return turn | {"content": parts}
