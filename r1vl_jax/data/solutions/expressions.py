r"""The grammar of an expression in a worked solution: plain, LaTeX or in words, with units.

    8 * 6 + 5    12 divided by 2    5 cm \times 3 cm    \frac{1}{2}bh    2\pi r    \sqrt{3^2 + 4^2}    \angle ABC

Quantifiers are possessive, so that no text makes matching slow.
"""

import regex as re  # whose possessive quantifiers are right in every Python

_NUMBER = r"(?:\d{1,3}(?:(?:,|\{,\})\d{3})++(?!\d)(?:\.\d++)?+|\d++(?:\.\d++)?+|\.\d++)"
_BRACES = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*+\})*+\})*+\}"
_INSIDE = r"(?:\\[A-Za-z]++|(?![a-z]{3})[^()])"  # of parentheses: no words
_PARENTHESES = rf"(?:\\left\s*+)?+\((?:{_INSIDE}|\({_INSIDE}*+\))*+\)"

OPERATOR_WORD = r"(?:times|plus|minus|divided by|multiplied by)"
_WORD_OF_UNIT = rf"\s?+(?!{OPERATOR_WORD}\b)[A-Za-z]{{2,12}}+(?:\s?[²³]|\^\{{?[23]\}}?+)?+"
_MARK_OF_UNIT = r"\s?(?:\\?%|°[CF]?+|\^\{?\\?circ\}?+|\\(?:text|mathrm)\{[^{}]{1,24}\}(?:\^\{?[23]\}?+)?+)"
_UNIT = rf"(?:{_MARK_OF_UNIT}|{_WORD_OF_UNIT})"

_GREEK = r"\\(?:pi|theta|alpha|beta|gamma|phi|lambda|mu|omega|Delta)(?![A-Za-z])|[πθαβγφλω]"
_SYMBOL = (
    r"(?:m?\s?(?:\\(?:angle|triangle)|[∠△])\s?)?+"
    rf"(?:\\overline\{{[A-Z]{{1,3}}\}}|{_GREEK}|[A-Z]{{1,3}}(?![A-Za-z])|[a-z](?![A-Za-z]))"
)
_FUNCTION = rf"(?:\\[dt]?frac\s?(?:{_BRACES}|\d)\s?(?:{_BRACES}|\d)|\\?sqrt(?:\[\d\])?(?:{_BRACES}|{_PARENTHESES}))"
_TRIGONOMETRY = r"\\?(?:sin|cos|tan|log|ln)(?:\^\{?-?\d\}?+)?\s?"
_ATOM = rf"(?:{_TRIGONOMETRY}|√)?+(?:{_FUNCTION}|{_PARENTHESES}|{_NUMBER}{_UNIT}?+|{_SYMBOL})"
_EXPONENT = rf"(?:\^(?:{_BRACES}|\\?circ|\d++|[A-Za-z])|_(?:{_BRACES}|\w)|[²³!'’])*+"
_SIGN = r"[-−–+]?+\s?(?:\\?\$|[€£¥₹])?+\s?"
_TERM = rf"{_SIGN}{_ATOM}{_EXPONENT}"
_SIGN_BETWEEN = r"\s*+(?:[-+*/×·÷∙−–]|\\(?:times|cdot|div)(?![A-Za-z])|[xX](?=\s?[\d(\\$]))\s*+"
_NO_SIGN_BETWEEN = (  # a product
    r"\\[,;: ]|\s*+(?=\\(?:[dt]?frac|sqrt|pi|theta|sin|cos|tan)(?![A-Za-z]))|\s?(?=\(|\\left\s*\()|(?=[\\A-Za-z√π])"
    r"|(?<=\\pi)\s(?=[a-z](?![a-z]))"
)
_BETWEEN = rf"(?:{_SIGN_BETWEEN}|\s++{OPERATOR_WORD}\s++|{_NO_SIGN_BETWEEN})"

EXPRESSION = re.compile(rf"{_TERM}(?:{_BETWEEN}{_TERM})*+")
UNIT_AT_END = re.compile(rf"(?<=\d)(?!\s?\\?%){_UNIT}$")
# Behind an expression that was not read to its end.
GOES_ON = re.compile(
    r"\s*(?:[*/^:+×·÷_{\[±∓]|\((?!(?!sqrt|sin|cos|tan|log)[A-Za-z]{3})"
    r"|\\(?!text|math|mbox|q?quad|end|tag|right|circ|degree|therefore|because|checkmark|square|hspace)[A-Za-z{])"
    r"|\d|[.,]\d|\.\."
)
_UNIT_LETTER = r"[aAIgmhslLJNWVKCF](?!\w)"  # or a word
# Behind a number without its unit: "2 x", "2 m + 1", "20% of 50", "2 to 5".
OF = re.compile(rf"\s*(?:{OPERATOR_WORD}|mod|choose|of)\b")
WORD_GOES_ON = re.compile(
    rf"{OF.pattern}|\s+\d|\s+or\b|\s+(?:to|through|until)\s+[-−$]?\d|\s+and\s+[-−$]?[\d.,]++\s*$"
    rf"|\s+(?:[A-Za-z](?![\w'’])\s*[-+*/^(]|(?!{_UNIT_LETTER})[A-Za-z](?![\w'’]))"
)
