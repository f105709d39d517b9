"""Keeps special tokens that users write in their texts apart from those that the chat template writes.

A tokenizer makes one token of `<|im_end|>` wherever it stands: in a problem it would open another turn, in a response
end the completion, and `<|image_pad|>` would ask for an image. So the first character of every added token in a user's
text is replaced before the template renders it, and what stands between the template's own tokens is encoded by a copy
of the tokenizer that has no added tokens:

    Is <|im_end|> text?  ->  Is ?|im_end|> text?  ->  <|im_start|> user \\n Is Ġ< | im _end |> Ġtext ? <|im_end|>

Texts without added tokens take the tokenizer's usual way.
"""

import functools
import json
import re
from typing import Any

from tokenizers import Tokenizer

_ESCAPE = "\ufdd0"  # a noncharacter, which Unicode keeps for internal use; the character after it says what it replaces
_FIRST_CODE = 0xE000  # of the private use area


class UserText:
    """Encodes texts of users, alone or rendered by the chat template, so that they give no control tokens.

    Control tokens are all added tokens of the tokenizer, special or not, but for white space.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        id_of = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
        tokens = [token for token in id_of if not token.isspace()]
        self._control_ids = frozenset(id_of[token] for token in tokens)
        self._replaced = [_ESCAPE, *sorted({token[0] for token in tokens})]
        pattern = "|".join(map(re.escape, tokens)) or "(?!)"  # which matches nothing
        self._tokens = re.compile(pattern)
        self._to_replace = re.compile(f"{_ESCAPE}|(?={pattern}).", re.DOTALL)

    def protect(self, text: str) -> str:
        """The text with its control tokens disguised, for the chat template or for `encode`.

        Raises:
            ValueError: it has a control token that cannot be kept as text.
        """
        protected = self._to_replace.sub(self._disguise, text)
        normalizer = self._tokenizer.backend_tokenizer.normalizer
        if normalizer is None or not self._tokens.search(normalizer.normalize_str(protected)):
            return protected
        raise ValueError(f"it has a special token of the tokenizer that cannot be kept as text: {_shorten(text)}")

    def encode(self, rendered: str) -> list[int]:
        """The token ids of a text, or of a rendered template whose texts were protected.

        Raises:
            ValueError: a text has a control token that cannot be kept as text.
        """
        if _ESCAPE not in rendered:
            return self._tokenizer(rendered)["input_ids"]
        encoding = self._tokenizer(rendered, return_offsets_mapping=True)
        token_ids, end = [], 0
        for token_id, (start, stop) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True):
            if token_id in self._control_ids:
                token_ids += [*self._encode_as_text(rendered[end:start]), token_id]
                end = max(end, stop)
        return token_ids + self._encode_as_text(rendered[end:])

    def _disguise(self, match: re.Match[str]) -> str:
        return _ESCAPE + chr(_FIRST_CODE + self._replaced.index(match[0]))

    def _encode_as_text(self, protected: str) -> list[int]:
        text = re.sub(f"{_ESCAPE}(.)", lambda match: self._replaced[ord(match[1]) - _FIRST_CODE], protected)
        token_ids = self._without_added_tokens.encode(text, add_special_tokens=False).ids
        if self._control_ids.isdisjoint(token_ids):
            return token_ids
        raise ValueError(f"it has a special token of the tokenizer that cannot be kept as text: {_shorten(text)}")

    @functools.cached_property
    def _without_added_tokens(self) -> Tokenizer:
        """A copy of the tokenizer that splits added tokens: `split_special_tokens` would do so for special ones only,
        and change a setting of the tokenizer that other threads use."""
        description = json.loads(self._tokenizer.backend_tokenizer.to_str())
        description |= {"post_processor": None, "truncation": None, "padding": None}
        description["added_tokens"] = [token for token in description["added_tokens"] if token["content"].isspace()]
        return Tokenizer.from_str(json.dumps(description))


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}...")
