r"""The text of an answer without its wrapping and in one typography: `**Answer:** \boxed{−½}` is `-1/2`.

`plain_text` repeats three things until nothing changes. It unifies characters (NFKC; dashes, superscripts, fractions,
roots, Greek letters), removes wrappings that enclose the whole answer (`\boxed`, dollars, emphasis, quotation marks,
"the final answer is", a full stop), and writes LaTeX's spelling of plain things plainly (`\%`, `\dfrac`, `\text{cm}`).
Nothing is removed inside an answer: `2*3*4`, `x_1`, `5"` and `f'(x)` stay.
"""

import functools
import re
import unicodedata

_MAX_ROUNDS = 16  # wrappings within wrappings that are removed
MAX_LENGTH = 1_000  # characters of an answer that are looked into; a longer one equals only itself

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ", "0123456789+-()n")
_SUPERSCRIPT = re.compile(f"[{''.join(map(chr, _SUPERSCRIPTS))}]+")
_SUBSCRIPT = re.compile("(?<=[0-9])[₀-₉]+")  # behind a letter, NFKC's digits are right: H₂O is H2O
_CIRCLED = re.compile("[①-⑳]")
_INVISIBLE = re.compile("[\u200b-\u200d\u2060\ufeff]")
_VULGAR_FRACTION = re.compile("[¼-¾⅐-⅞↉]")
_THIN_SPACE_GROUP = re.compile(r"(?<=[0-9])(?:[\u00a0\u2009\u202f]|\\,|\{,\})(?=[0-9]{3}(?![0-9]))")
_ROOT = re.compile(r"([√∛∜])\s*(\d+(?:\.\d+)?|[A-Za-z]|\([^()]*\)|\{[^{}]*\})")
_ROOT_COMMANDS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}
_GREEK = dict(
    zip(
        "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩ",
        (
            "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi"
            " psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
        ).split(),
        strict=True,
    )
)
_GREEK_SYMBOL = re.compile(rf"(?<![^\W\d_a-zA-Z])[{''.join(_GREEK)}](?![^\W\d_a-zA-Z])")  # not within a Greek word
_CHARACTERS = str.maketrans(
    dict.fromkeys("‐‑‒–—―−﹣－", "-")
    | dict.fromkeys("‘’‚‛′", "'")
    | dict.fromkeys("“”„‟", '"')
    | dict.fromkeys("º˚", "°")
    | dict.fromkeys("⁄∕÷", "/")
    | dict.fromkeys("·⋅∙", r"\cdot ")
    | dict.fromkeys("∶", ":")
    | dict.fromkeys("∅⌀", r"\emptyset ")
    | {"∠": r"\angle ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}"}
    | {"×": r"\times ", "∞": r"\infty ", "±": r"\pm ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup "}
    | {"∈": r"\in ", "≈": r"\approx "}
)

_TEXT_COMMAND = (
    r"\\(?:text|textrm|textbf|textit|textsf|texttt|textnormal|mathrm|mathbf|mathit|mathsf|mbox|emph|boldsymbol|bm)"
)
_ENCLOSING_COMMAND = re.compile(rf"(?:\\(?:boxed|fbox)|{_TEXT_COMMAND}\*?)\s*\{{(.*)\}}", re.DOTALL)
# \boxed{12} cm^2, **12** cm, \boxed{B}: 45, **B.** 45
_BOX_AND_REST = re.compile(r"\\boxed\s*\{(.*)\}\s*([^\W\d_][^\d\\{}$]*(?:\^\s?-?\d)?)", re.DOTALL)
_EMPHASIS_AND_REST = re.compile(r"(\*\*|__)([^*_]+)\1\s*([^\W\d_][^\d\\{}$*]*(?:\^\s?-?\d)?)")
_LETTER_AND_TEXT = re.compile(
    r"(?:\\boxed\s*\{\s*|\*\*|__)\(?([A-J])\)?[.:)]?(?:\}|\*\*|__)(?:\s*[.:)]\s*|\s+)([^\s\\].*)", re.DOTALL
)
_ENCLOSING = [
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"\$\$((?:[^$\\]|\\.)+)\$\$",
        r"\$((?:[^$\\]|\\.)+)\$",
        r"\{\s*\\(?:bf|it|rm|sf|tt)\s+([^{}]*)\}",
        r"\\\[((?:(?!\\[\[\]]).)+)\\\]",
        r"\\begin\{(?:equation|align|displaymath|math|gather)\*?\}((?:(?!\\begin).)+)\\end\{[a-z]+\*?\}",
        r"\*\*\*((?:(?!\*\*).)+)\*\*\*",
        r"\*\*((?:(?!\*\*).)+)\*\*",
        r"\*([^*\s](?:[^*]*[^*\s])?)\*",
        r"__((?:(?!__).)+)__",
        r"_([^_\s](?:[^_]*[^_\s])?)_",
        r"```([^`]+)```",
        r"`([^`]+)`",
        r'"([^"]+)"',
        r"'([^']+)'",
        r"``([^`']+)''",
        r"«([^«»]+)»",
        r"「([^「」]+)」",
        r"\{([^{},]*)\}",
    )
]
_LEAD = re.compile(
    r"(?:(?:so|thus|hence|therefore),?\s+)?"
    r"(?:(?:the|my)\s+)?(?:(?:final|correct|right)\s+)*answer(?:\s+is|\s*[:=])\s*[:=]?\s*"
    r"|(?:the\s+)?(?:(?:correct|right|final)\s+)*(?:option|choice)(?:\s+is|\s*:)?\s+(?=(?:\\[a-z]+\{|[(\[{*\"'$\\])*[A-Ja-j](?![A-Za-z]))"
    r"|(?:故)?选择?\s*:?\s*(?=[(\[{*]*[A-J](?![A-Za-z]))|(?:最终)?答案\s*(?:是|为|:)\s*:?",
    re.IGNORECASE,
)
_EMPHASISED_LEAD = re.compile(
    rf"(\*\*|__|\*|_)(?:(?:{_LEAD.pattern})\1|(?:the\s+)?(?:final\s+|correct\s+)?answer\1\s*:)\s*", re.IGNORECASE
)
_FULL_STOP = re.compile(r"(?:(?<![.\s])|(?<=[^\W\d_]\.[^\W\d_]\.))\s*[.。,;]$")
_ABBREVIATION = re.compile(r"(?:^|[^\w.])(?:[^\W\d_]\.){2,}$")  # p.m., U.S.A.

_LATEX = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<![\\$])\$(?![\s$])((?:[^$\\]|\\.)*?(?<!\s))\$(?![0-9$])", r"\1"),  # not: $5 and $10
        (r"\\\(((?:(?!\\[()]).)+)\\\)", r"\1"),
        (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle)(?![A-Za-z])", ""),
        (r"(?<!\\)\\[,;:! ]|\\q?quad(?![A-Za-z])|(?<=\S)~(?=\S)", " "),
        (r"\\([%#&$])", r"\1"),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\(?:degree|textdegree)(?![A-Za-z])", "°"),
        (rf"\s*{_TEXT_COMMAND}\*?\s*\{{([^{{}}]*)\}}\s*", r" \1 "),
        (r"\^\{\s*(\w)\s*\}", r"^\1"),
        (r"\\mathbb\s*\{?\s*([A-Z])\s*\}?", r"\\mathbb{\1}"),
        (r"\\varnothing(?![A-Za-z])", r"\\emptyset"),
        (r"\\leq(?![A-Za-z])", r"\\le"),
        (r"\\geq(?![A-Za-z])", r"\\ge"),
        (r"\\(?:neq|not\s*=)(?![A-Za-z])", r"\\ne"),
    )
]
_SPACES = re.compile(r"\s+")


def plain_text(text: str) -> str:
    """An answer without wrapping and in one typography."""
    if len(text) > MAX_LENGTH:
        return text.strip()
    return _plain_text(text)


@functools.lru_cache(maxsize=8_192)
def _plain_text(text: str) -> str:
    for _ in range(_MAX_ROUNDS):
        before = text
        text = _rewrite_latex(_unwrap(_unify_characters(text).strip()))
        if text == before or len(text) > 2 * MAX_LENGTH:
            break
    return text


def _unify_characters(text: str) -> str:
    text = _THIN_SPACE_GROUP.sub(_grouping, text)
    if not text.isascii():
        text = _INVISIBLE.sub("", text)
        text = _SUBSCRIPT.sub(lambda run: f"_{unicodedata.normalize('NFKC', run[0])}", text)
        text = _CIRCLED.sub(lambda digit: f" #{unicodedata.normalize('NFKC', digit[0])} ", text)
        text = _SUPERSCRIPT.sub(lambda run: f"^{{{run[0].translate(_SUPERSCRIPTS)}}}", text)
        text = _VULGAR_FRACTION.sub(_fraction, text)
        text = text.translate(_CHARACTERS)
        text = unicodedata.normalize("NFKC", text).translate(_CHARACTERS)
        text = _ROOT.sub(lambda root: f"{_ROOT_COMMANDS[root[1]]}{{{root[2].strip('{}')}}}", text)
        text = _GREEK_SYMBOL.sub(lambda letter: rf"\{_GREEK[letter[0]]} ", text)
    return text


def _grouping(gap: re.Match[str]) -> str:
    return "," if gap[0] == "{,}" else ""


def _fraction(character: re.Match[str]) -> str:
    """`½` as `1/2`, behind a space where a digit is before it."""
    fraction = unicodedata.normalize("NFKC", character[0]).replace("⁄", "/")
    follows_digit = character.string[: character.start()][-1:].isdigit()
    return f" {fraction}" if follows_digit else fraction


def _unwrap(text: str) -> str:
    """Removes the outermost wrapping, once for each kind that encloses the whole text."""
    for lead in (_EMPHASISED_LEAD, _LEAD):
        if (found := lead.match(text)) and found.end() < len(text):
            text = text[found.end() :].strip()
    if (enclosed := _ENCLOSING_COMMAND.fullmatch(text)) and _is_balanced(enclosed[1]):
        text = enclosed[1].strip()
    elif option := _LETTER_AND_TEXT.fullmatch(text):
        text = f"{option[1]}: {option[2]}"
    elif (boxed := _BOX_AND_REST.fullmatch(text)) and _is_balanced(boxed[1]):
        text = f"{boxed[1]} {boxed[2]}"
    elif emphasised := _EMPHASIS_AND_REST.fullmatch(text):
        text = f"{emphasised[2]} {emphasised[3]}"
    for pattern in _ENCLOSING:
        if enclosed := pattern.fullmatch(text):
            text = enclosed[1].strip()
    if not _ABBREVIATION.search(text):
        text = _FULL_STOP.sub("", text)
    return text


def _is_balanced(text: str) -> bool:
    """Whether the braces of a text close one another."""
    depth = 0
    for brace in re.findall(r"\\.|[{}]", text, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace, 0)
        if depth < 0:
            return False
    return depth == 0


def _rewrite_latex(text: str) -> str:
    if any(mark in text for mark in "\\~^$"):
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
    return _SPACES.sub(" ", text).strip()
