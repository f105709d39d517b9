"""How a model is asked: its tokenizer with its chat template, its image processor, its instruction and end tokens."""

from dataclasses import dataclass
from pathlib import Path

from r1vl_jax import config
from r1vl_jax.checkpoint.hf.atomic_directory import INSTRUCTION
from r1vl_jax.checkpoint.hf.chat_template import load_chat_tokenizer
from r1vl_jax.checkpoint.model_config import model_config
from r1vl_jax.data.chat_format import eos_token_ids
from r1vl_jax.data.images import load_image_processor
from r1vl_jax.data.processor import Processor
from r1vl_jax.data.prompts import EncodedPrompt, render
from r1vl_jax.data.turns import Conversation


@dataclass(frozen=True)
class Prompter:
    """What a checkpoint's files say about its prompts and answers.

    Attributes:
        instruction: that the model was trained with (`instruction.txt` of an export); "" if there is none.
        eos_token_ids: each of them ends an answer.
    """

    processor: Processor
    instruction: str
    eos_token_ids: tuple[int, ...]

    def encode(self, conversation: Conversation) -> EncodedPrompt:
        """The prompt of a conversation. Raises what `render` raises."""
        return render(conversation, self.processor)

    def decode(self, token_ids: list[int]) -> str:
        """The text of an answer, without special tokens."""
        return self.processor.tokenizer.decode(token_ids, skip_special_tokens=True)


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
        processor=Processor(
            tokenizer, load_image_processor(directory), tokens_per_second=sizes.vision.tokens_per_second
        ),
        instruction=path.read_text("utf-8").strip() if path.is_file() else "",
        eos_token_ids=tuple(eos_token_ids(tokenizer, directory)),
    )
