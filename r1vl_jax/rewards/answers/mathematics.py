"""Mathematical expressions: which texts are mathematics alone, and how math-verify gets them."""

import re
from fractions import Fraction

from r1vl_jax.rewards.answers import units

_COMMAND = re.compile(r"\\(?:[A-Za-z]+|.)")
_FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp sqrt pi max min lim mod gcd lcm"
    " det".split()
)
_SHORT_WORDS = frozenset(
    "am an and any are as at be but by can did do few for go had has he her him his how if in is it its may me my"
    " nor not no now of off on one or our out per see she so ten the to too two up us via was we who why yes yet"
    " you".split()
)
# Commands whose meaning math-verify knows; of a text with another it may take a part.
_GREEK = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi"
    " varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
)
_KNOWN_COMMANDS = frozenset(
    f"{_GREEK} pi frac sqrt cdot times div pm mp le ge ne lt gt infty cup cap in sin cos tan cot sec csc arcsin arccos"
    " arctan sinh cosh tanh log ln lg exp max min gcd lcm det binom lfloor rfloor lceil rceil vert circ prime"
    " { } |".split()
)
_NO_MATHEMATICS = re.compile(r"[^ -~]|\.(?![0-9])|[\"'?`;:#$@~%&]|\\\\|[0-9]\s*_|\{\s*\}|\(\s*\)")
# An operator without its operand: `5+`, `*5`, `5^`, `3 </ 4`.
_DANGLING = re.compile(
    r"^\s*(?:[*/^_=!)\]}]|\\(?:cdot|times|div)(?![A-Za-z]))|(?:[+\-*/^_=<>(\[{]|\\(?:cdot|times|div|pm|mp|le|ge|ne|in|cup|cap)"
    r")\s*$|[+\-*/^=<>]\s*[*/^=<>]|[\^_]\s*[)\]}]"
    rf"|(?<![A-Za-z])(?:{'|'.join(sorted(_FUNCTIONS - {'pi'}))})\s*$"
)
# Brackets of an interval belong to a union or the like, others only to a root: [5] is a list.
_SQUARE_BRACKET = re.compile(r"(?<!\\sqrt)\[")
_SETS = re.compile(r"\\(?:cup|cap|in)(?![A-Za-z])")
_CHAIN = re.compile(r"\w+(?:\s*-\s*\w+){2,}|\w+(?:\s*/\s*\w+){2,}")  # 1-2-3, A-B-C, 2/3/4
_SUBSCRIPT = re.compile(r"_(?:\{[^{}]*\}|\w)")
_FUNCTION = re.compile(rf"(?<![A-Za-z])(?:{'|'.join(sorted(_FUNCTIONS))})(?![A-Za-z])")
_LABEL = re.compile(r"[A-Za-z][0-9]|[A-Za-z0-9]\s+[0-9]")  # Q3, A 4, 3 2020
GREEK_LETTERS = frozenset(_GREEK.split())
_MAX_PRODUCT = 3  # letters in a row that may be a product of variables
_LETTER_RUN = re.compile(r"[A-Za-z]{2,}")
_VARIABLE = re.compile(r"[A-DF-Za-df-hj-z]")  # not the constants e and i, nor E
_RELATION = re.compile(r"[=<>]|\\(?:le|ge|ne|lt|gt|in|sim|equiv|cong)(?![A-Za-z])")
_DECIMAL = re.compile(r"[0-9]*\.[0-9]+|[0-9]+\.")
_TYPED = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\*\*", "^"),
        (r"\^\s*(-?[0-9]{2,}|-[0-9A-Za-z])", r"^{\1}"),
        (r"\^\s*\(([^()]*)\)", r"^{\1}"),
        (r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (rf"(?<![\\A-Za-z])({'|'.join(sorted(_FUNCTIONS))})(?![A-Za-z])", r"\\\1 "),
        (r"([0-9])[eE]([+-]?[0-9]+)", r"\1 \\times 10^{\2}"),
    )
]


def is_mathematics(text: str) -> bool:
    """Whether a text is mathematics to its last character: no word, label or second candidate."""
    typed = text.replace("**", "^")
    if not text or _NO_MATHEMATICS.search(text) or _DANGLING.search(typed) or _CHAIN.fullmatch(text):
        return False
    if not _KNOWN_COMMANDS.issuperset(command[1:] for command in _COMMAND.findall(text)):
        return False
    if _SQUARE_BRACKET.search(text) and not _SETS.search(text):
        return False
    if not _is_balanced(text) or text.replace("\\|", "").count("|") % 2:
        return False
    rest = _SUBSCRIPT.sub("", _FUNCTION.sub("@", _COMMAND.sub("@", text)))
    if _LABEL.search(rest):
        return False
    runs = _LETTER_RUN.findall(rest)
    if any(len(run) > _MAX_PRODUCT or run.lower() in _SHORT_WORDS or units.parse_unit(run) for run in runs):
        return False
    has_operator = "\\" in text or bool(re.search(r"[+*/^=<>|-]", text))
    return text == "pi" or has_operator or (not runs and bool(re.search("[0-9A-Za-z]", rest)))


def _is_balanced(text: str) -> bool:
    """Whether every bracket has its partner; those of an interval may differ."""
    opened: list[str] = []
    for bracket in re.findall(r"[()\[\]{}]", text):
        if bracket in "([{":
            opened.append(bracket)
        elif not opened or (opened.pop() == "{") != (bracket == "}"):
            return False
    return not opened


def variables(text: str) -> frozenset[str]:
    """The letters of an expression that are variables."""
    greek = {command[1:] for command in _COMMAND.findall(text)} & GREEK_LETTERS
    return frozenset(_VARIABLE.findall(_COMMAND.sub("", text))) | greek


def is_relation(text: str) -> bool:
    """Whether an expression is an equation, an inequality or the like."""
    return _RELATION.search(text) is not None


def to_latex(value: Fraction | str) -> str:
    """LaTeX for math-verify: decimals, which it would round, as fractions; names and powers typed without backslash."""
    if isinstance(value, str):
        for pattern, replacement in _TYPED:
            value = pattern.sub(replacement, value)
        return _DECIMAL.sub(lambda decimal: to_latex(Fraction(decimal[0])), value)
    return str(value.numerator) if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
