"""What kind of word a token is in, and where in its word and document it stands."""

import unicodedata

import numpy as np
from jaxtyping import Int8

from sae_core.held_out_text import HeldOutText

SHAPES = (
    "numbers",
    "years",
    "letters with digits",
    "single letters",
    "capitalised words",
    "words in capitals",
    "words in mixed case",
    "ends of sentences",
    "commas and colons",
    "brackets",
    "quotation marks",
    "dashes",
    "symbols",
    "white space",
)
"""Shapes of words. A word in lower case has none: most words have that."""
FIRST_PUNCTUATION = SHAPES.index("ends of sentences")
"""From here on shapes are those of punctuation."""
LOWER_CASE = "words in lower case"
PARTS = tuple(f"{part} pieces of {shape}" for shape in (*SHAPES, LOWER_CASE) for part in ("first", "middle", "last"))
"""Parts of words that take several tokens."""
POSITIONS = ("first words of documents", "later pieces of words")
"""A document that goes on in a new context begins anew for the language model, so it does here."""

_SHAPE = {name: index for index, name in enumerate(SHAPES)}
_MARKS = {
    **dict.fromkeys(".!?…", _SHAPE["ends of sentences"]),
    **dict.fromkeys(",;:", _SHAPE["commas and colons"]),
    **dict.fromkeys("\"'`", _SHAPE["quotation marks"]),
}
_CATEGORIES = {
    **dict.fromkeys(("Ps", "Pe"), _SHAPE["brackets"]),
    **dict.fromkeys(("Pi", "Pf"), _SHAPE["quotation marks"]),
    "Pd": _SHAPE["dashes"],
    **dict.fromkeys(("Zs", "Zl", "Zp", "Cc"), _SHAPE["white space"]),
}
"""Unicode categories of punctuation; the others are symbols."""
_YEARS = range(1000, 2100)


def read_shapes(text: HeldOutText) -> Int8[np.ndarray, " n"]:
    """Index into ``SHAPES`` of the word of each token; -1 where there is none."""
    first = np.flatnonzero(text.word_starts)
    ids, inverse = np.unique(text.token_ids, return_inverse=True)
    per_token = np.array([_characters(text.segmenter.decode([token]).strip(" ")) for token in ids.tolist()])
    # Sums over the tokens of each word: how many characters of each kind it has.
    n_all, n_upper, n_lower, n_digits, n_other = np.add.reduceat(per_token[inverse, :5], first, axis=0).T
    # Some tokenizers put a token of a space alone before a word; then the next one shows how the word begins.
    blank = per_token[inverse[first], 0] == 0
    several = np.diff(first, append=len(inverse)) > 1
    starts_upper, mark = per_token[inverse[first + (blank & several)], 5:].T
    letters = (n_digits + n_other == 0) & (n_upper + n_lower > 0)
    cases = {
        "years": (n_digits == n_all) & (n_all == 4) & _years(text)[text.word[first]],
        "numbers": (n_digits == n_all) & (n_all > 0),
        "letters with digits": (n_digits > 0) & (n_other == 0),
        "single letters": letters & (n_all == 1),
        "capitalised words": letters & (starts_upper == 1) & (n_upper == 1),
        "words in capitals": letters & (n_upper == n_all),
        "words in mixed case": letters & (n_upper > 0),
    }
    numbers = [*(np.int64(_SHAPE[name]) for name in cases), mark]
    shape = np.select([*cases.values(), n_other == n_all], numbers, np.int64(-1))
    shape[text.word[first] < 0] = -1
    of_token: np.ndarray = shape[np.cumsum(text.word_starts) - 1].astype(np.int8)
    return of_token


def read_parts(text: HeldOutText, shape: Int8[np.ndarray, " n"]) -> Int8[np.ndarray, " n"]:
    """Index into ``PARTS`` for each token; -1 where the word is a single token.

    Args:
        shape: of each token, from ``read_shapes``.
    """
    last = np.append(text.word_starts[1:], True)
    part = np.where(text.word_starts, 0, np.where(last, 2, 1))
    found = 3 * np.where(shape < 0, len(SHAPES), shape) + part
    found[(text.word_starts & last) | (text.word < 0)] = -1
    return found.astype(np.int8)


def read_positions(text: HeldOutText) -> Int8[np.ndarray, " n"]:
    """Index into ``POSITIONS`` for each token; -1 in between."""
    position = np.full(len(text.token_ids), -1, np.int8)
    inside = ~text.word_starts
    position[inside] = 1
    position[text.segment_begin == np.arange(len(position))] = 0
    position[text.word < 0] = -1
    return position


def _years(text: HeldOutText) -> np.ndarray:
    """By word, and for no word: whether it is a number like a year's."""
    digits = [word if word.isascii() and word.isdecimal() and len(word) == 4 else "0" for word in text.words.texts]
    return np.array([int(number) in _YEARS for number in [*digits, "0"]])


def _characters(piece: str) -> tuple[int, int, int, int, int, int, int]:
    """Characters; upper-case, lower-case or caseless letters, digits and others among them; whether the first is upper
    case; the shape that its first character gives it where it is punctuation."""
    upper = sum(character.isupper() for character in piece)
    digits = sum(character.isdigit() for character in piece)
    letters = sum(character.isalpha() or unicodedata.combining(character) > 0 for character in piece)
    other = len(piece) - digits - letters
    first = piece[:1]
    category = unicodedata.category(first) if first else "Zs"
    mark = _MARKS.get(first, _CATEGORIES.get(category, _SHAPE["symbols"]))
    return len(piece), upper, letters - upper, digits, max(0, other), int(first.isupper()), mark
