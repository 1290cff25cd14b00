"""What rules speak about: the attributes of every token of the held-out text.

Place in the flow: held-out text -> **token attributes** -> rules -> lexical explanations. Values of attributes have
numbers, so that counting what a feature fires on is adding up numbers.
"""

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64

from sae_core.explaining.clauses import CLAUSE_KINDS, PAIR_SEPARATOR, ClauseKind
from sae_core.explaining.shapes import (
    FIRST_PUNCTUATION,
    PARTS,
    POSITIONS,
    SHAPES,
    read_parts,
    read_positions,
    read_shapes,
)
from sae_core.held_out_text import HeldOutText
from sae_core.words import name_word

_AFFIX_LENGTHS = (2, 3)
_MIN_REST = 2
"""Letters that a word has besides a prefix or suffix, at least: "-ing" says no more of "king" than "king" does."""
_UNFINISHED = "\ufffd"
"""What a decoder puts in place of a character of which it got some bytes only."""


class TokenAttributes:
    """The attributes of every token of the text; special tokens have none.

    Args:
        text: where the tokens stand.
    """

    def __init__(self, text: HeldOutText):
        self.text = text
        self._values: list[str] = []
        self._numbers: dict[ClauseKind, dict[str, int]] = {kind: {} for kind in CLAUSE_KINDS}
        self._column_kinds: list[ClauseKind] = []
        self._column_begins: list[int] = []
        words = text.words.texts
        shape = read_shapes(text)
        # Punctuation has a name, of which it has no prefix: ``,`` is no word beginning with "co-".
        spelled = np.where(shape < FIRST_PUNCTUATION, text.word, -1)
        columns: list[tuple[ClauseKind, Sequence[str], np.ndarray]] = [
            ("now", words, text.word),
            ("pair", *_pairs(words, text.word_before, text.word)),
            ("before", words, text.word_before),
            ("after", words, text.word_after),
            *(("prefix", *_affixes(words, spelled, slice(0, length))) for length in _AFFIX_LENGTHS),
            *(("suffix", *_affixes(words, spelled, slice(-length, None))) for length in _AFFIX_LENGTHS),
            ("piece", *_pieces(text)),
            ("shape", SHAPES, shape),
            ("part", PARTS, read_parts(text, shape)),
            ("position", POSITIONS, read_positions(text)),
        ]
        numbered = [self._number_column(*column) for column in columns]
        self.columns: Int32[np.ndarray, "n columns"] = np.stack(numbered, axis=1)
        """Numbers of the values of each token's attributes, -1 for none. Prefixes and suffixes have a column for each
        length; a column has larger numbers than those before it."""

    def _number_column(self, kind: ClauseKind, values: Sequence[str], index: Int[np.ndarray, " n"]) -> np.ndarray:
        """Give numbers to the values of a column; spellings that differ in case alone get the same."""
        self._column_kinds.append(kind)
        self._column_begins.append(len(self._values))
        known = self._numbers[kind]
        number = np.empty(len(values) + 1, np.int32)
        number[-1] = -1  # where an index of -1 points to
        for i, value in enumerate(values):
            number[i] = known.setdefault(value.casefold(), len(self._values))
            if number[i] == len(self._values):
                self._values.append(value)
        column: np.ndarray = number[index]
        return column

    def __len__(self) -> int:
        """Values of all attributes together."""
        return len(self._values)

    def kind(self, number: int) -> ClauseKind:
        """Of which attribute a value is."""
        return self._column_kinds[self._column(number)]

    def value(self, number: int) -> str:
        """The value as a clause writes it."""
        return self._values[number]

    def number(self, kind: ClauseKind, value: str) -> int | None:
        """The number of a value, upper and lower case taken together; None if no token of the text has it."""
        return self._numbers[kind].get(value.casefold())

    def matches(self, kind: ClauseKind, value: str, tokens: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Whether each of these tokens has the value."""
        number = self.number(kind, value)
        if number is None:
            return np.zeros(len(tokens), bool)
        matching: np.ndarray = self.columns[tokens, self._column(number)] == number
        return matching

    def _column(self, number: int) -> int:
        return bisect_right(self._column_begins, number) - 1

    def counts(self, tokens: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " values"]:
        """How many of these tokens have each value."""
        total = np.zeros(len(self), np.int64)
        for column in self.columns.T:
            found = column[tokens]
            total += np.bincount(found[found >= 0], minlength=len(self))
        return total


def _pairs(words: list[str], before: np.ndarray, word: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Names of the pairs of a word and that before it, and which one each token has."""
    known = np.flatnonzero((before >= 0) & (word >= 0))
    keys, index = np.unique(before[known] * len(words) + word[known], return_inverse=True)
    names = [f"{words[a]}{PAIR_SEPARATOR}{words[b]}" for a, b in zip(*np.divmod(keys, len(words)), strict=True)]
    found = np.full(len(word), -1)
    found[known] = index
    return names, found


def _affixes(words: list[str], word: np.ndarray, part: slice) -> tuple[list[str], np.ndarray]:
    """Beginnings or ends of the words, and which one each token has."""
    shortest = _MIN_REST + abs(part.start or part.stop)
    folded = [text.casefold() for text in words]
    cut = [text[part] if text.isalpha() and len(text) >= shortest else "" for text in folded]
    names = sorted({each for each in cut if each})
    index = {name: i for i, name in enumerate(names)}
    of_word = np.array([index.get(each, -1) for each in cut] + [-1])
    return names, of_word[word]


def _pieces(text: HeldOutText) -> tuple[list[str], np.ndarray]:
    """The distinct tokens as text, and which one each token is if its word takes several."""
    ids, index = np.unique(text.token_ids, return_inverse=True)
    names = [_name_piece(text.segmenter.decode([token])) for token in ids.tolist()]
    several = ~(text.word_starts & np.append(text.word_starts[1:], True))
    return names, np.where(several & (text.word >= 0), index, -1)


def _name_piece(piece: str) -> str:
    return "part of a character" if _UNFINISHED in piece else name_word(piece).casefold()
