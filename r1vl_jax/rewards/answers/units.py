"""Units of measurement: the spellings of one unit, and the products and powers that units form.

A unit is a set of (base, exponent); the base is the symbol with its prefix. Nothing is converted: `km` is not `m`.
"""

import functools
import re

Unit = frozenset[tuple[str, int]]
DIMENSIONLESS: Unit = frozenset()

_PREFIXES = {"p": "pico", "n": "nano", "μ": "micro", "m": "milli", "c": "centi", "d": "deci", "": ""}
_PREFIXES |= {"h": "hecto", "k": "kilo", "M": "mega", "G": "giga", "T": "tera"}
_PREFIXED = {
    "m": "meter metre",
    "g": "gram gramme",
    "s": "second sec",
    "L": "liter litre",
    "N": "newton",
    "J": "joule",
    "W": "watt",
    "Wh": "watthour watt-hour watt_hour",
    "V": "volt",
    "A": "ampere amp",
    "F": "farad",
    "Ω": "ohm",
    "Hz": "hertz",
    "Pa": "pascal",
    "eV": "electronvolt",
    "mol": "mole",
    "cal": "calorie",
    "K": "kelvin",
    "T": "tesla",
    "B": "byte",
    "bit": "",
    "b": "",
    "C": "coulomb",
    "H": "henry",
    "S": "siemens",
    "Sv": "sievert",
    "Bq": "becquerel",
    "Gy": "gray",
    "VA": "",
    "Wb": "weber",
    "lm": "lumen",
    "lx": "lux",
}
_OTHERS = {
    "min": "minute",
    "h": "hour hr",
    "day": "",
    "week": "wk",
    "month": "",
    "year": "yr",
    "century": "centuries",
    "in": "inch inches",
    "ft": "foot feet",
    "yd": "yard",
    "mi": "mile",
    "lb": "lbs pound",
    "oz": "ounce",
    "t": "ton tonne",
    "gal": "gallon",
    "acre": "",
    "ha": "hectare",
    "atm": "atmosphere",
    "bar": "",
    "mmHg": "",
    "psi": "",
    "rad": "radian",
    "dB": "decibel",
    "rpm": "",
    "cup": "",
    "tablespoon": "tbsp",
    "teaspoon": "tsp",
    "unit": "units",
    "°": "degree deg",
    "°C": "degrees-celsius degree-celsius celsius",
    "°F": "degrees-fahrenheit degree-fahrenheit fahrenheit",
    "$": "dollar usd us$ us-dollar",
    "€": "euro eur",
    "£": "gbp pounds-sterling",
    "¥": "yen jpy",
    "₹": "rupee inr",
    "¢": "cent",
    "元": "yuan rmb cny",
}
_CHINESE = {"公里": "km", "千米": "km", "米": "m", "厘米": "cm", "毫米": "mm", "公斤": "kg", "千克": "kg", "克": "g"}
_CHINESE |= {"吨": "t", "升": "L", "毫升": "mL", "小时": "h", "分钟": "min", "秒": "s", "天": "day", "年": "year"}
_CHINESE |= {"度": "°", "摄氏度": "°C", "元": "元"}
_COMPOUNDS = {"mph": "mi/h", "kmh": "km/h", "kph": "km/h", "km/hr": "km/h", "fps": "ft/s", "cc": "cm^3"}
_CURRENCIES = "$€£¥₹"
# Symbols that letters behind a number may mean something else by: `2A` is a label, `4t` a product.
_NEEDS_SPACE = {"A", "B", "C", "F", "H", "S", "T", "b", "t", "in"}

_SEPARATOR = re.compile(r"\s*(/|\bper\b)\s*|\s*(?:\*|\\cdot|\\times|-(?=[A-Za-z]))\s*|\s+")
_EXPONENT = re.compile(r"\s*\^\s*\{?\s*(-?[0-9])\s*\}?|(?<=[A-Za-z])([23])")
_POWER_WORDS = {"square": 2, "sq": 2, "sq.": 2, "cubic": 3, "cu": 3}
_POWER_SUFFIXES = {"squared": 2, "cubed": 3}
_TOKEN = re.compile(r"us\$|[^\W\d_]+\$|°\s?[CF](?![A-Za-z])|[°$€£¥¢₹]|[^\W\d_]+\.?", re.IGNORECASE)
_MAX_LENGTH = 64
CURRENCY_BEFORE = re.compile(r"(?:US)?\$\s?|[€£¥₹]\s?|(?:USD|EUR|GBP|JPY|CNY|RMB|INR)\s(?=[\d.])")


def _spellings() -> tuple[dict[str, str], dict[str, str]]:
    """Symbols, which keep their case, and names in lower case, with their plurals."""
    symbols: dict[str, str] = {}
    names: dict[str, str] = {}
    for base, words in _PREFIXED.items():
        for prefix, prefix_name in _PREFIXES.items():
            symbols[prefix + base] = prefix + base
            names |= {
                f"{prefix_name}{word}{plural}".replace("_", " "): prefix + base
                for word in words.split()
                for plural in ("", "s")
            }
    for base, words in _OTHERS.items():
        symbols[base] = base
        plural_base = [base] if base.isalpha() and base.islower() and len(base) > 2 else []
        for word in words.split() + plural_base:
            names |= {word.replace("-", " "): base, word.replace("-", " ") + "s": base}
    for chinese, symbol in _CHINESE.items():
        symbols[chinese] = symbol
    del symbols["B"], symbols["b"]  # 5 B is rather five billion
    symbols |= {"kms": "km", "cms": "cm", "mms": "mm", "kgs": "kg", "KM": "km"}
    symbols |= {"l": "L", "ml": "mL", "Kg": "kg", "KG": "kg", "KB": "kB", "hrs": "h", "mins": "min"}
    symbols |= {"secs": "s", "yrs": "year", "kwh": "kWh", "Ohm": "Ω"}
    return symbols, names


_SYMBOLS, _NAMES = _spellings()


@functools.lru_cache(maxsize=4_096)
def parse_unit(text: str, *, is_attached: bool = False) -> Unit | None:
    """The unit that a text spells; None if it spells none.

    Args:
        text: plain text, such as `km/h`, `square meters`, `m s^{-1}`.
        is_attached: whether it stands behind its number without a space.
    """
    text = re.sub(r"\\(?:mu|Omega)\s*", lambda command: "μ" if command[0].startswith("\\mu") else "Ω", text).strip()
    text = re.sub(r"(?<![A-Za-z])u(?=[mgsLlAVFW](?![A-Za-z]))", "μ", text)
    text = text.replace("平方", "square ").replace("立方", "cubic ")
    if not text or len(text) > _MAX_LENGTH or (is_attached and text in _NEEDS_SPACE):
        return None
    if whole := _base(text):
        return frozenset([(whole, 1)])
    if compound := _COMPOUNDS.get(text.lower()):
        text = compound
    powers: dict[str, int] = {}
    position, sign, next_power = 0, 1, 1
    while position < len(text):
        if (separator := _SEPARATOR.match(text, position)) and separator.end() > position:
            if separator[1]:
                sign = -1
            position = separator.end()
            continue
        token = _TOKEN.match(text, position)
        if token is None:
            return None
        position = token.end()
        if token[0].lower() in _POWER_WORDS:
            next_power = _POWER_WORDS[token[0].lower()]
            continue
        base, power = _base(token[0]), next_power
        if base is None:
            return None
        if exponent := _EXPONENT.match(text, position):
            power, position = int(exponent[1] or exponent[2]), exponent.end()
        elif suffix := re.compile(r"\s+(squared|cubed)\b").match(text, position):
            power, position = _POWER_SUFFIXES[suffix[1]], suffix.end()
        powers[base] = powers.get(base, 0) + sign * power
        next_power = 1
    is_whole = next_power == 1 and bool(powers) and not _SEPARATOR.fullmatch(text[-1:])
    return frozenset((base, power) for base, power in powers.items() if power) if is_whole else None


def currency(symbol: str) -> Unit:
    """The unit of a currency's mark in front of a number."""
    base = _base(symbol.strip())
    assert base is not None
    return frozenset([(base, 1)])


def to_text(unit: Unit) -> str:
    """A unit in one spelling."""
    return " ".join(base if power == 1 else f"{base}^{power}" for base, power in sorted(unit))


def _base(token: str) -> str | None:
    token = re.sub(r"°\s+(?=[CF])", "°", token)
    symbol = _SYMBOLS.get(token) or _SYMBOLS.get(token.removesuffix("."))
    return symbol or _NAMES.get(token.lower()) or _NAMES.get(token.lower().removesuffix("."))
