"""Where the features of one run fire on held-out text: what explanations are made of and scored on.

Place in the flow: held-out shards x SAE -> **feature contexts** -> explanations -> scores -> similarity.

Every document belongs to one half of the text, so that run A can be explained from one half and run B from the other
(the same windows on both sides would inflate how alike the explanations are), and an explanation made from one half can
be scored on the other.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int64

N_HALVES = 2

Kind = Literal["strongest", "quantile", "random", "same_token", "near"]
"""``strongest``: where the feature is most active. ``quantile``: drawn from a quantile of its other activations.
Without any activation: ``random``; ``same_token``: about a token that it fires on elsewhere; ``near``: among the
nearest, by the language model's mean activation, to where it fires."""
ACTIVATING: tuple[Kind, ...] = ("strongest", "quantile")
NON_ACTIVATING: tuple[Kind, ...] = ("random", "same_token", "near")
MARKED_SHARE = 0.3
"""Share of the largest activation from which a token is marked, in texts for people and models alike (as in delphi)."""
Place = Literal["now", "before", "after"]
"""Words on which a feature fires, and those before and after them."""

EXAMPLE_SCHEMA = pa.schema(
    [
        pa.field("feature", pa.int32(), nullable=False),
        pa.field("half", pa.int8(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("quantile", pa.int8(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("length", pa.int16(), nullable=False),
        pa.field("peak", pa.int16(), nullable=False),
        pa.field("activation", pa.float32(), nullable=False),
        pa.field("activations", pa.list_(pa.float32())),
        pa.field("text", pa.string(), nullable=False),
    ]
)
"""``examples.parquet``: rows in the order of feature, half, kind as in ``Kind``, then the strongest first. ``start`` is
a token of the held-out text (context * context length + position), ``peak`` an offset from it, ``activation`` that at
the peak; ``activations`` are those of the feature on every token, null where all are zero; ``text`` has the tokens
above 0.3 of the feature's largest activation of that half marked <<so>>."""

WORD_SCHEMA = pa.schema(
    [
        pa.field("feature", pa.int32(), nullable=False),
        pa.field("half", pa.int8(), nullable=False),
        pa.field("place", pa.string(), nullable=False),
        pa.field("word", pa.string(), nullable=False),
        pa.field("share", pa.float32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
    ]
)
"""``words.parquet``: the words with the largest scores, largest first. ``share``: part of the feature's squared
activation, in (0, 1]. ``score``: ``share * log(share / expected)``, the word's part of the divergence from the
corpus."""

FEATURE_SCHEMA = pa.schema(
    [
        pa.field("feature", pa.int32(), nullable=False),
        pa.field("half", pa.int8(), nullable=False),
        pa.field("n_activations", pa.int64(), nullable=False),
        pa.field("frequency", pa.float64(), nullable=False),
        pa.field("max_activation", pa.float32(), nullable=False),
        pa.field("mean_activation", pa.float32(), nullable=False),
        pa.field("promoted", pa.list_(pa.string()), nullable=False),
    ]
)
"""``features.parquet``: two rows for every feature that fires at all. ``frequency``: share of the tokens of that half.
``mean_activation``: over the tokens it fires on."""


@dataclass(frozen=True)
class Example:
    """A stretch of held-out text inside one document, and what a feature does on it."""

    kind: Kind
    quantile: int
    """0 has the strongest activations; -1 for kinds that are not drawn from quantiles."""
    start: int
    """First token, counted over the held-out text."""
    peak: int
    """Offset of the token it is about: the most active one, or one that it does not fire on."""
    activations: Float32[np.ndarray, " length"]
    """Activation on every token; zeros where it does not fire."""

    @property
    def stop(self) -> int:
        """One past the last token."""
        return self.start + len(self.activations)

    @property
    def activating(self) -> bool:
        """Whether the feature fires in it."""
        return self.kind in ACTIVATING


@dataclass(frozen=True)
class WordShare:
    """A word beside a feature's activations, see ``WORD_SCHEMA``."""

    word: str
    share: float
    score: float


@dataclass(frozen=True)
class FeatureContexts:
    """What ``read_contexts`` reads from an artifact folder. Features are those that fire at all, ascending; a feature's
    index among them is its *place*.
    """

    d_sae: int
    features: Int64[np.ndarray, " n"]
    n_fired: Int64[np.ndarray, "n 2"]
    """Tokens on which a feature is active, in each half."""
    n_tokens: Int64[np.ndarray, " 2"]
    """Tokens looked at, in each half."""
    max_activation: Float32[np.ndarray, "n 2"]
    promoted: list[list[str]]
    """Words each feature makes likelier, by the logit lens, the strongest first."""
    code_start: Int64[np.ndarray, " starts"]
    """Codes of the feature at place i are ``code_start[i]:code_start[i + 1]`` of the two arrays below."""
    code_token: Int64[np.ndarray, " codes"]
    """Token of the held-out text, ascending for each feature."""
    code_activation: Float32[np.ndarray, " codes"]
    example_table: pa.Table
    word_table: pa.Table
    looked_at: Int64[np.ndarray, " tokens"]
    """Tokens of the held-out text whose activations were encoded, ascending; others (special tokens, position 0) have
    no code because nobody looked."""

    def codes(self, place: int) -> tuple[Int64[np.ndarray, " m"], Float32[np.ndarray, " m"]]:
        """Tokens on which a feature is active, and how much."""
        part = slice(int(self.code_start[place]), int(self.code_start[place + 1]))
        return self.code_token[part], self.code_activation[part]

    def examples(self, place: int, half: int) -> list[Example]:
        """Its examples of one half, activating ones first, in the order of the table."""
        part = self._rows(self.example_table, self._example_rows, place, half)
        columns = {name: part[name].to_pylist() for name in ("kind", "quantile", "start", "length", "peak")}
        found = []
        for i, activations in enumerate(part["activations"].to_pylist()):
            length = columns["length"][i]
            values = np.zeros(length, np.float32) if activations is None else np.asarray(activations, np.float32)
            found.append(
                Example(columns["kind"][i], columns["quantile"][i], columns["start"][i], columns["peak"][i], values)
            )
        return found

    def words(self, place: int, half: int, where: Place) -> list[WordShare]:
        """The most telling words on, before or after which it fires in one half, the most telling first."""
        part = self._rows(self.word_table, self._word_rows, place, half)
        rows = zip(*(part[name].to_pylist() for name in ("place", "word", "share", "score")), strict=True)
        return [WordShare(word, share, score) for there, word, share, score in rows if there == where]

    def example_texts(self, place: int, half: int, n: int) -> list[str]:
        """Its n strongest examples of one half as text, marked <<so>>; fewer where there are fewer."""
        part = self._rows(self.example_table, self._example_rows, place, half).slice(0, n)
        rows = zip(part["kind"].to_pylist(), part["text"].to_pylist(), strict=True)
        return [text for kind, text in rows if kind == "strongest"]

    @cached_property
    def _example_rows(self) -> Int64[np.ndarray, " starts"]:
        return self._offsets(self.example_table)

    @cached_property
    def _word_rows(self) -> Int64[np.ndarray, " starts"]:
        return self._offsets(self.word_table)

    def _offsets(self, table: pa.Table) -> Int64[np.ndarray, " starts"]:
        """Where the rows of each slot, ``2 * place + half``, begin."""
        place = np.searchsorted(self.features, table["feature"].to_numpy())
        slot = N_HALVES * place + table["half"].to_numpy()
        return np.searchsorted(slot, np.arange(N_HALVES * len(self.features) + 1)).astype(np.int64)

    def _rows(self, table: pa.Table, offsets: np.ndarray, place: int, half: int) -> pa.Table:
        slot = N_HALVES * place + half
        return table.slice(int(offsets[slot]), int(offsets[slot + 1] - offsets[slot]))
