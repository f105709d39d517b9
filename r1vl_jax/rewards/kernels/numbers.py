r"""Numbers in normal form, parsed by a finite automaton and compared as exact rationals.

    12   -1,234.5   .5   50%   3/4   \frac{3}{4}

A value is a sign and a fraction. Its numerator and denominator are in base 10,000, least significant digit first, so
that sums of products of digits fit into 32 bits.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int, UInt8

from r1vl_jax.arrays import Array, bundle

MAX_LENGTH = 32  # bytes of a number; NUM_DIGITS are enough for numerator and denominator of any number that long
BASE = 10_000
NUM_DIGITS = 9
_DECIMAL_DIGITS = 4 * NUM_DIGITS

_AFTER_DECIMAL = {" ": "space", "\\": "escape", "%": "percent"}
# state -> character -> next state; "0" is any digit. Any other transition means that the text is not a number.
_RULES: dict[str, dict[str, str]] = {
    "start": {"+": "signed", "-": "signed", "0": "1 digit", ".": "bare point", "\\": "\\"},
    "signed": {"0": "1 digit", ".": "bare point", "\\": "\\"},
    "1 digit": {"0": "2 digits", ",": "comma", ".": "point", "/": "slash", **_AFTER_DECIMAL},
    "2 digits": {"0": "3 digits", ",": "comma", ".": "point", "/": "slash", **_AFTER_DECIMAL},
    "3 digits": {"0": "digits", ",": "comma", ".": "point", "/": "slash", **_AFTER_DECIMAL},
    "digits": {"0": "digits", ".": "point", "/": "slash", **_AFTER_DECIMAL},
    "comma": {"0": "comma 1"},
    "comma 1": {"0": "comma 2"},
    "comma 2": {"0": "comma 3"},
    "comma 3": {",": "comma", ".": "point", **_AFTER_DECIMAL},
    "bare point": {"0": "decimals"},
    "point": {"0": "decimals", **_AFTER_DECIMAL},
    "decimals": {"0": "decimals", **_AFTER_DECIMAL},
    "space": {"\\": "escape", "%": "percent"},
    "escape": {"%": "percent"},
    "percent": {},
    "slash": {"0": "below slash"},
    "below slash": {"0": "below slash"},
    "\\": {"f": "\\f"},
    "\\f": {"r": "\\fr"},
    "\\fr": {"a": "\\fra"},
    "\\fra": {"c": "\\frac"},
    "\\frac": {"{": "numerator opens"},
    "numerator opens": {"-": "numerator signed", "0": "numerator"},
    "numerator signed": {"0": "numerator"},
    "numerator": {"0": "numerator", "}": "numerator closes"},
    "numerator closes": {"{": "denominator opens"},
    "denominator opens": {"-": "denominator signed", "0": "denominator"},
    "denominator signed": {"0": "denominator"},
    "denominator": {"0": "denominator", "}": "denominator closes"},
    "denominator closes": {},
    "not a number": {},
}
_STATES = list(_RULES)
_FINAL_STATES = {"1 digit", "2 digits", "3 digits", "digits", "comma 3", "point", "decimals", "percent", "below slash"}
_FINAL_STATES |= {"denominator closes"}
# The action on entering a state with a character.
_APPEND_TO_NUMERATOR = {
    "1 digit",
    "2 digits",
    "3 digits",
    "digits",
    "comma 1",
    "comma 2",
    "comma 3",
    "decimals",
    "numerator",
}
_APPEND_TO_DENOMINATOR = {"below slash", "denominator"}
_DENOMINATOR_X10 = {"decimals"}
_DENOMINATOR_X100 = {"percent"}
_CLEAR_DENOMINATOR = {"slash", "denominator opens"}


@bundle
class Rational:
    """The exact value of a text, if it is a number.

    Attributes:
        is_number: whether it is; the other fields are valid only then.
        is_negative: the sign.
        numerator_N, denominator_N: digits in base 10,000.
    """

    is_number: Bool[Array, ""]
    is_negative: Bool[Array, ""]
    numerator_N: Int[Array, " N"]
    denominator_N: Int[Array, " N"]


def parse_number(form_X: UInt8[Array, " X"], length: Int[Array, ""]) -> Rational:
    """The value of a text in normal form, of at most X = MAX_LENGTH bytes."""
    next_state = jnp.asarray(_transitions())

    def step(carry: tuple[Array, ...], character: tuple[Array, Array]) -> tuple[tuple[Array, ...], None]:
        state, is_negative, numerator, denominator = carry
        byte, index = character
        state = jnp.where(index < length, next_state[state, byte], state)
        is_new = index < length
        digit = byte.astype(jnp.int32) - ord("0")
        numerator = jnp.where(is_new & _is_in(state, _APPEND_TO_NUMERATOR), _append(numerator, digit), numerator)
        denominator = jnp.where(
            is_new & _is_in(state, _APPEND_TO_DENOMINATOR), _append(denominator, digit), denominator
        )
        denominator = jnp.where(
            is_new & _is_in(state, _DENOMINATOR_X10 | _DENOMINATOR_X100), _append(denominator, 0), denominator
        )
        denominator = jnp.where(is_new & _is_in(state, _DENOMINATOR_X100), _append(denominator, 0), denominator)
        denominator = jnp.where(is_new & _is_in(state, _CLEAR_DENOMINATOR), 0, denominator)
        return (state, is_negative ^ (is_new & (byte == ord("-"))), numerator, denominator), None

    zeros = jnp.zeros(_DECIMAL_DIGITS, jnp.int32)
    start = (jnp.int32(_STATES.index("start")), jnp.array(False), zeros, zeros.at[0].set(1))
    (state, is_negative, numerator, denominator), _ = jax.lax.scan(step, start, (form_X, jnp.arange(form_X.shape[0])))
    return Rational(
        is_number=_is_in(state, _FINAL_STATES) & jnp.any(denominator != 0),
        is_negative=is_negative,
        numerator_N=_regroup(numerator),
        denominator_N=_regroup(denominator),
    )


def is_equal(one: Rational, other: Rational) -> Bool[Array, ""]:
    """Whether two values are equal: a/b = c/d if ad = cb."""
    has_same_sign = (one.is_negative == other.is_negative) | jnp.all(one.numerator_N == 0)
    return has_same_sign & jnp.all(
        _product(one.numerator_N, other.denominator_N) == _product(other.numerator_N, one.denominator_N)
    )


def to_digits(value: int) -> np.ndarray | None:
    """A non-negative integer in base 10,000; None if it is too large."""
    if value >= BASE**NUM_DIGITS:
        return None
    return np.array([value // BASE**index % BASE for index in range(NUM_DIGITS)], np.int32)


def _product(one_N: Int[Array, " N"], other_N: Int[Array, " N"]) -> Int[Array, " 2N"]:
    """Schoolbook multiplication."""
    parts = [jnp.pad(one_N * other_N[index], (index, NUM_DIGITS - index)) for index in range(NUM_DIGITS)]
    sums = sum(parts[1:], parts[0])

    def propagate_carry(carry: Int[Array, ""], digit: Int[Array, ""]) -> tuple[Array, Array]:
        return (carry + digit) // BASE, (carry + digit) % BASE

    return jax.lax.scan(propagate_carry, jnp.int32(0), sums)[1]


def _regroup(decimal: Int[Array, " 4N"]) -> Int[Array, " N"]:
    """Groups decimal digits, least significant first, by four."""
    return jnp.sum(decimal.reshape(-1, 4) * np.array([[1, 10, 100, 1000]], np.int32), axis=1)


def _append(digits: Int[Array, " 4N"], digit: Int[Array, ""] | int) -> Int[Array, " 4N"]:
    """Appends a decimal digit: 10 * number + digit."""
    return jnp.roll(digits, 1).at[0].set(digit)


def _is_in(state: Int[Array, ""], names: set[str]) -> Bool[Array, ""]:
    return jnp.asarray(np.array([name in names for name in _STATES]))[state]


def _transitions() -> np.ndarray:
    """The rules as a table [state, byte] -> next state."""
    table = np.full((len(_STATES), 256), _STATES.index("not a number"), np.int32)
    for state, rule in _RULES.items():
        for character, next_state in rule.items():
            for byte in b"0123456789" if character == "0" else character.encode():
                table[_STATES.index(state), byte] = _STATES.index(next_state)
    return table
