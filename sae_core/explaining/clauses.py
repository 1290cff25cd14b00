"""Clauses: what a rule says of the tokens on which a feature fires, and how a clause is put into words."""

from dataclasses import dataclass
from typing import Literal, get_args

ClauseKind = Literal["now", "pair", "before", "after", "prefix", "suffix", "piece", "shape", "part", "position"]
"""``now``: the word that the token is in. ``before``, ``after``: the word before and after that one, in the same
document. ``pair``: the word before and the word, ``of|the``. ``prefix``, ``suffix``: the first and last two or three
letters of the word. ``piece``: the token itself, where a word takes several. ``shape``: what kind of word; ``part``: a
part of such a word, where it takes several tokens; ``position``: where in a word or a document (see *shapes*)."""
CLAUSE_KINDS: tuple[ClauseKind, ...] = get_args(ClauseKind)

WORD_KINDS: tuple[ClauseKind, ...] = ("now", "prefix", "suffix", "piece")
"""Kinds that stand for some words."""
PAIR_SEPARATOR = "|"


@dataclass(frozen=True)
class Clause:
    """The tokens with one value of one attribute, and what the feature does on them (in the text that made it)."""

    kind: ClauseKind
    value: str
    weight: float
    """Mean activation of a token that matches, those on which the feature is silent included."""
    precision: float
    """Share of the tokens that match on which the feature fires, in (0, 1]."""
    recall: float
    """Share of the feature's activation that falls on tokens that match, in (0, 1]."""

    def text(self) -> str:
        """The clause in words: a word itself, or a phrase (``after "of"``, ``words ending in "-ing"``, ``numbers``)."""
        match self.kind:
            case "now":
                return self.value
            case "pair":
                before, now = self.value.split(PAIR_SEPARATOR, 1)
                return f'"{now}" after "{before}"'
            case "before":
                return f'after "{self.value}"'
            case "after":
                return f'before "{self.value}"'
            case "prefix":
                return f'words beginning with "{self.value}-"'
            case "suffix":
                return f'words ending in "-{self.value}"'
            case "piece":
                return f'"{self.value}" in longer words'
            case "shape" | "part" | "position":
                return self.value
