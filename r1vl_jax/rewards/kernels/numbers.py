r"""Numbers in normal form, read by a finite automaton and compared as exact rationals.

    12   -1,234.5   .5   50%   3/4   \frac{3}{4}

A value is top / bottom, both as digits to the base 10,000, the lowest first, so that products of digits and their sums
fit into 32 bits.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int, UInt8

from r1vl_jax.arrays import Array, bundle

MAX_LENGTH = 32  # bytes of a number; NUM_DIGITS hold the top and the bottom of all that short
BASE = 10_000
NUM_DIGITS = 9
_DECIMAL_DIGITS = 4 * NUM_DIGITS

_AFTER_DECIMAL = {" ": "space", "\\": "escape", "%": "percent"}
# state -> character -> next state; "0" stands for every digit. All else is no number.
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
    "\\frac": {"{": "top opens"},
    "top opens": {"-": "top signed", "0": "top"},
    "top signed": {"0": "top"},
    "top": {"0": "top", "}": "top closes"},
    "top closes": {"{": "bottom opens"},
    "bottom opens": {"-": "bottom signed", "0": "bottom"},
    "bottom signed": {"0": "bottom"},
    "bottom": {"0": "bottom", "}": "bottom closes"},
    "bottom closes": {},
    "no number": {},
}
_STATES = list(_RULES)
_ENDS = {"1 digit", "2 digits", "3 digits", "digits", "comma 3", "point", "decimals", "percent", "below slash"}
_ENDS |= {"bottom closes"}
# What entering a state does with the character that led there.
_TOP_TAKES_DIGIT = {"1 digit", "2 digits", "3 digits", "digits", "comma 1", "comma 2", "comma 3", "decimals", "top"}
_BOTTOM_TAKES_DIGIT = {"below slash", "bottom"}
_BOTTOM_TIMES_10 = {"decimals"}
_BOTTOM_TIMES_100 = {"percent"}
_BOTTOM_IS_0 = {"slash", "bottom opens"}


@bundle
class Rational:
    """An exact value, if a text has one.

    Attributes:
        is_number: whether it has; the other fields are meaningless if not.
        is_negative: the sign.
        top_N, bottom_N: top and bottom of the fraction, to the base 10,000.
    """

    is_number: Bool[Array, ""]
    is_negative: Bool[Array, ""]
    top_N: Int[Array, " N"]
    bottom_N: Int[Array, " N"]


def read_number(form_X: UInt8[Array, " X"], length: Int[Array, ""]) -> Rational:
    """The value of a text in normal form, X = MAX_LENGTH bytes at most."""
    next_state = jnp.asarray(_transitions())

    def read(carry: tuple[Array, ...], character: tuple[Array, Array]) -> tuple[tuple[Array, ...], None]:
        state, is_negative, top, bottom = carry
        byte, place = character
        state = jnp.where(place < length, next_state[state, byte], state)
        is_new = place < length
        digit = byte.astype(jnp.int32) - ord("0")
        top = jnp.where(is_new & _is_in(state, _TOP_TAKES_DIGIT), _append(top, digit), top)
        bottom = jnp.where(is_new & _is_in(state, _BOTTOM_TAKES_DIGIT), _append(bottom, digit), bottom)
        bottom = jnp.where(is_new & _is_in(state, _BOTTOM_TIMES_10 | _BOTTOM_TIMES_100), _append(bottom, 0), bottom)
        bottom = jnp.where(is_new & _is_in(state, _BOTTOM_TIMES_100), _append(bottom, 0), bottom)
        bottom = jnp.where(is_new & _is_in(state, _BOTTOM_IS_0), 0, bottom)
        return (state, is_negative ^ (is_new & (byte == ord("-"))), top, bottom), None

    nothing = jnp.zeros(_DECIMAL_DIGITS, jnp.int32)
    start = (jnp.int32(_STATES.index("start")), jnp.array(False), nothing, nothing.at[0].set(1))
    (state, is_negative, top, bottom), _ = jax.lax.scan(read, start, (form_X, jnp.arange(form_X.shape[0])))
    return Rational(
        is_number=_is_in(state, _ENDS) & jnp.any(bottom != 0),
        is_negative=is_negative,
        top_N=_regroup(top),
        bottom_N=_regroup(bottom),
    )


def is_equal(one: Rational, other: Rational) -> Bool[Array, ""]:
    """Whether two values are the same: a/b = c/d where ad = cb."""
    has_same_sign = (one.is_negative == other.is_negative) | jnp.all(one.top_N == 0)
    return has_same_sign & jnp.all(_product(one.top_N, other.bottom_N) == _product(other.top_N, one.bottom_N))


def to_digits(value: int) -> np.ndarray | None:
    """A whole number, not negative, to the base 10,000; None if it is too large."""
    if value >= BASE**NUM_DIGITS:
        return None
    return np.array([value // BASE**place % BASE for place in range(NUM_DIGITS)], np.int32)


def _product(one_N: Int[Array, " N"], other_N: Int[Array, " N"]) -> Int[Array, " 2N"]:
    parts = [jnp.pad(one_N * other_N[place], (place, NUM_DIGITS - place)) for place in range(NUM_DIGITS)]
    sums = sum(parts[1:], parts[0])

    def carry_on(carry: Int[Array, ""], digit: Int[Array, ""]) -> tuple[Array, Array]:
        return (carry + digit) // BASE, (carry + digit) % BASE

    return jax.lax.scan(carry_on, jnp.int32(0), sums)[1]


def _regroup(decimal: Int[Array, " 4N"]) -> Int[Array, " N"]:
    """Decimal digits, the lowest first, four by four."""
    return jnp.sum(decimal.reshape(-1, 4) * np.array([[1, 10, 100, 1000]], np.int32), axis=1)


def _append(digits: Int[Array, " 4N"], digit: Int[Array, ""] | int) -> Int[Array, " 4N"]:
    """Ten times the number, and one more digit."""
    return jnp.roll(digits, 1).at[0].set(digit)


def _is_in(state: Int[Array, ""], names: set[str]) -> Bool[Array, ""]:
    return jnp.asarray(np.array([name in names for name in _STATES]))[state]


def _transitions() -> np.ndarray:
    """The rules as a table: state and byte -> next state."""
    table = np.full((len(_STATES), 256), _STATES.index("no number"), np.int32)
    for state, rule in _RULES.items():
        for character, following in rule.items():
            for byte in b"0123456789" if character == "0" else character.encode():
                table[_STATES.index(state), byte] = _STATES.index(following)
    return table
