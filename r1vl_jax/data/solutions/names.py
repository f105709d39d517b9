"""Names of quantities in words: `width of the box` in "So the width of the box is 12"; and words that say nothing."""

import regex as re  # whose possessive quantifiers are right in every Python

_MAX_WORDS = 4
_LAST_WORDS = re.compile(r"(?:[A-Za-z][\w'’-]*+\s){0,6}+[\w'’-]++$")
_COMMAND = re.compile(r"\\(?:text|mathrm|textbf)\{([A-Za-z][\w '’-]{1,30})\}$")
_ARTICLES = set("the a an his her its their our this that each every".split())
_PREPOSITIONS = set("of in for on per at by from to with between".split())
# A name begins behind these at the earliest.
_OPENINGS = set(
    "so then thus hence therefore and since we get have is are was because now where which find gives that also let if"
    " when as but while means calculate know see first next finally here note with".split()
)
_OPERATORS = set("plus minus divided multiplied mod modulo choose".split())
_PARTS = _OPERATORS | set("times out about than only".split())  # of something else
# What is counted, so that "Row 3 is 15" and "the page is 44" say nothing of a quantity.
_STRUCTURE = set(
    "page chapter section table figure row column line question problem exercise equation part case item".split()
)
_NUMBERED = {"angle", "side", "segment"}  # "angle 1" is a name
# What names nothing in particular, above all the answer.
_NO_NAMES = set(
    "answer answers it there this that he she they we you i these those result solution option choice what who which"
    " step one value figure all img src href alt not".split()
)
_FUNCTION_WORDS = _ARTICLES | _PREPOSITIONS | _OPENINGS | _NO_NAMES
_FUNCTION_WORDS |= set(
    "total sum number amount be been am were will would can could do does did has had or than yes no our me us them"
    " equal equals needed given using just only all both also again".split()
)
_LAST_OF_FRAGMENTS = _ARTICLES | _PREPOSITIONS
_LAST_OF_FRAGMENTS |= set(
    "is are was were be been get gives have has equals equal than and or if as because so".split()
)
_WORDS_ALONE = re.compile(r"[^\W\d_]++(?:[\s.,;:'’\"-]++[^\W\d_]++)*+[\s.,;:]*+")


def is_fragment(text: str) -> bool:
    """Whether words alone state nothing: all are function words, or the last one asks for more ("the total is")."""
    if not _WORDS_ALONE.fullmatch(text):
        return False
    words = re.findall(r"[^\W\d_]+", text.lower())
    return words[-1] in _LAST_OF_FRAGMENTS or _FUNCTION_WORDS.issuperset(words)


def name_at_end(text: str) -> tuple[str, int] | None:
    """The name of one to four words that a text ends with, and where it begins; None if it ends with none."""
    if command := _COMMAND.search(text):
        return command[1], command.start()
    found = _LAST_WORDS.search(text)
    words = _without_opening(found[0].split(" ")) if found else []
    start = len(text) - len(" ".join(words))
    return (" ".join(words), start) if _is_name([word.lower() for word in words], text[:start].rstrip()) else None


def _without_opening(words: list[str]) -> list[str]:
    lower = ["", *(word.lower() for word in words)]
    is_opening = [
        word in _OPENINGS or (word in _ARTICLES and before not in _PREPOSITIONS)
        for before, word in zip(lower, lower[1:], strict=False)
    ]
    return words[len(words) - is_opening[::-1].index(True) :] if True in is_opening else words


def _is_name(words: list[str], before: str) -> bool:
    """Whether words are a whole name, given the text before them."""
    if not 1 <= len(words) <= _MAX_WORDS or not re.search("[a-z]{2}", " ".join(words)):
        return False
    is_cut = before.rpartition(" ")[2].lower() in _PREPOSITIONS or before[-1:] in set("+-*/=×÷(\\^_{0123456789%")
    is_part = words[0] in _PREPOSITIONS | _PARTS or words[-1] in _ARTICLES | _NO_NAMES
    is_structure = (len(words) == 1 and words[0] in _STRUCTURE) or _has_bare_number(words)
    return not (is_cut or is_part or is_structure or _OPERATORS & {*words} or "answer" in words)


def _has_bare_number(words: list[str]) -> bool:
    """Whether a number stands behind what it counts: "Row 3", "USD 50", but not "value for 2019"."""
    return any(
        word[0].isdigit() and before not in _PREPOSITIONS | _NUMBERED
        for before, word in zip(["", *words], words, strict=False)
    )
