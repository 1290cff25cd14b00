"""One pass over the held-out activations of a run; then its features, a range at a time.

Place in the flow: held-out shards x SAE -> **feature contexts** -> explanations. Memory grows with the text (some
hundred bytes a token), not with the number of active codes.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float32, Int64

from sae_core.architectures import Sae
from sae_core.config import ContextsConfig
from sae_core.feature_contexts.codes import CodeFiles, FeatureCodes
from sae_core.feature_contexts.contexts import ACTIVATING, FEATURE_SCHEMA, N_HALVES
from sae_core.feature_contexts.encoding_pass import count_documents, encode_held_out, extent, open_code_files
from sae_core.feature_contexts.example_table import example_table
from sae_core.feature_contexts.examples import ExampleChooser
from sae_core.feature_contexts.files import ContextFiles, ContextsSummary, code_table, write_looked_at
from sae_core.feature_contexts.places import KINDS, Pool, TextWindows
from sae_core.feature_contexts.promoted import promoted_words
from sae_core.feature_contexts.word_statistics import WordStatistics
from sae_core.held_out_text import HeldOutText
from sae_core.kernel_options import torch_threads
from sae_core.language_models import LanguageModel
from sae_core.progress import Progress, silent
from sae_core.shards import Shards
from sae_core.whole_files import write_whole


def collect_contexts(
    folder: Path,
    sae: Sae,
    held_out: Shards,
    text: HeldOutText,
    model: LanguageModel | None,
    config: ContextsConfig,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write where the features of an SAE fire: codes, examples, words, features (see ``contexts``) and a summary.

    A folder where the same was killed is completed: active codes that are in files are not computed again.

    Args:
        held_out: activations in the order of the held-out text.
        model: for the words that each feature makes likelier; none without it.

    Returns:
        The ``ContextsSummary`` as JSON values.

    Raises:
        ValueError: if the activations are not of this text, not in its order or of another width than the SAE, or if a
            half of the text has no document.
    """
    if held_out.d_in != sae.d_in:
        raise ValueError(
            f"the activations have width {held_out.d_in}, the SAE reads width {sae.d_in}; pass the activations of the "
            "hook it was trained on"
        )
    n_rows, n_tokens = extent(held_out, text.context_length, config.n_tokens)
    n_documents = count_documents(text, n_tokens)
    windows = TextWindows(text, config.before, config.after)
    pool = Pool(windows, n_tokens, config, sae.d_in)
    files = open_code_files(folder / "_codes", sae, held_out, text, n_rows)
    with torch_threads():
        looked_at = encode_held_out(files, sae, held_out, text, pool, n_rows, progress)
        found = _describe(folder, files, _Describer(windows, pool, looked_at, config), sae.d_sae, progress)
    words = promoted_words(sae, model, text.segmenter, found.features, config.n_promoted) if model else None
    n_tokens_of_half = np.bincount(text.half[looked_at], minlength=N_HALVES)
    table = found.feature_table(n_tokens_of_half, words or [[] for _ in found.features])
    write_whole(folder / "features.parquet", lambda part: pq.write_table(table, part, compression="zstd"))
    write_looked_at(folder, looked_at)
    summary = ContextsSummary(
        d_sae=sae.d_sae,
        n_features=len(found.features),
        n_codes=int(found.n_fired.sum()),
        n_tokens=n_tokens_of_half.tolist(),
        n_held_out_tokens=len(text),
        n_documents=n_documents,
        n_pool=len(pool.token),
        n_examples=dict(zip(KINDS, found.n_examples.sum(axis=(0, 1)).tolist(), strict=True)),
        n_features_without_negatives=found.n_without_negatives,
    ).model_dump(mode="json")
    write_whole(folder / "summary.json", lambda part: part.write_text(json.dumps(summary, indent=1)))
    files.remove()
    return summary


@dataclass(frozen=True)
class _Described:
    """Numbers of features, of one range or of all."""

    features: Int64[np.ndarray, " n"]
    n_fired: Int64[np.ndarray, "n 2"]
    max_activation: Float32[np.ndarray, "n 2"]
    mean_activation: Float32[np.ndarray, "n 2"]
    n_examples: Int64[np.ndarray, "n 2 kinds"]

    @classmethod
    def of_none(cls) -> "_Described":
        """Of no feature."""
        none = np.zeros((0, N_HALVES), np.float32)
        fired = none.astype(np.int64)
        return cls(fired[:, 0], fired, none, none, np.zeros((0, N_HALVES, len(KINDS)), np.int64))

    @property
    def n_without_negatives(self) -> int:
        """Features that have no silent window in a half in which they fire."""
        n_silent = self.n_examples[..., len(ACTIVATING) :].sum(axis=2)
        return int(((n_silent == 0) & (self.n_fired > 0)).any(axis=1).sum())

    def feature_table(self, n_tokens: Int64[np.ndarray, " 2"], promoted: list[list[str]]) -> pa.Table:
        """Rows of ``features.parquet``."""
        return pa.table(
            {
                "feature": np.repeat(self.features, N_HALVES).astype(np.int32),
                "half": np.tile(np.arange(N_HALVES, dtype=np.int8), len(self.features)),
                "n_activations": self.n_fired.reshape(-1),
                "frequency": (self.n_fired / n_tokens).reshape(-1),
                "max_activation": self.max_activation.reshape(-1),
                "mean_activation": self.mean_activation.reshape(-1),
                "promoted": [words for words in promoted for _ in range(N_HALVES)],
            },
            schema=FEATURE_SCHEMA,
        )


class _Describer:
    """Makes the tables of one range of features."""

    def __init__(self, windows: TextWindows, pool: Pool, looked_at: Bool[np.ndarray, " n"], config: ContextsConfig):
        self.windows = windows
        self._chooser = ExampleChooser(windows, pool, looked_at, config)
        self._words = WordStatistics(windows.text, looked_at, config.n_words)

    def describe(self, codes: FeatureCodes, files: ContextFiles) -> _Described:
        """Write the codes, examples and words of a range of features."""
        n = len(codes.features)
        slot = N_HALVES * np.repeat(np.arange(n), np.diff(codes.start)) + self.windows.text.half[codes.token]
        n_fired = np.bincount(slot, minlength=N_HALVES * n)
        total = np.bincount(slot, codes.activation, minlength=N_HALVES * n)
        largest = np.zeros(N_HALVES * n, np.float32)
        np.maximum.at(largest, slot, codes.activation)
        chosen = self._chooser.choose(codes, n_fired.reshape(n, N_HALVES))
        files.add(
            codes=code_table(codes),
            examples=example_table(codes, chosen, self.windows, largest.reshape(n, N_HALVES)),
            words=self._words.table(codes),
        )
        n_examples = np.bincount(chosen.slot * len(KINDS) + chosen.kind, minlength=N_HALVES * n * len(KINDS))
        return _Described(
            codes.features,
            n_fired.reshape(n, N_HALVES),
            largest.reshape(n, N_HALVES),
            (total / np.maximum(n_fired, 1)).astype(np.float32).reshape(n, N_HALVES),
            n_examples.reshape(n, N_HALVES, len(KINDS)),
        )


def _describe(folder: Path, codes: CodeFiles, describer: _Describer, d_sae: int, progress: Progress) -> _Described:
    """Write the tables of all features, a range at a time."""
    parts = [_Described.of_none()]
    with ContextFiles(folder) as files:
        for part in codes.ranges():
            parts.append(describer.describe(part, files))
            progress(int(part.features[-1]) + 1, d_sae, f"examples of {part.features[-1] + 1:,} of {d_sae:,} features")
    return _Described(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(_Described)))
