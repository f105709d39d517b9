"""Levenshtein's distance, with the columns of its table held as bits: Myers, 1999, https://doi.org/10.1145/316542.316550."""

from collections import defaultdict


def edit_distance(one: str, other: str) -> int:
    """The fewest characters to insert, delete or replace that turn one text into the other.

    The bits of an integer are the longer text, so that a step is made for each character of the shorter one.
    """
    shorter, longer = sorted((one, other), key=len)
    if not shorter:
        return len(longer)
    places: defaultdict[str, int] = defaultdict(int)
    for place, character in enumerate(longer):
        places[character] |= 1 << place
    every, last = (1 << len(longer)) - 1, 1 << (len(longer) - 1)
    more, less, distance = every, 0, len(longer)  # where a row is one more, or one less, than the row above it
    for character in shorter:
        equal = places.get(character, 0)
        down = (((equal & more) + more) ^ more) | equal | less
        right_more, right_less = less | (every & ~(down | more)), down & more
        distance += bool(right_more & last) - bool(right_less & last)
        right_more, right_less = (right_more << 1 | 1) & every, right_less << 1 & every
        more, less = right_less | (every & ~(down | right_more)), down & right_more
    return distance
