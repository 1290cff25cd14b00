"""The explanations of one explainer: where the text of every run, feature and half is."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sae_core.feature_contexts.contexts import N_HALVES
from sae_core.similarity.across_halves import Slots

_NOT_DRAWN = "not in the sample of explained features"


@dataclass(frozen=True)
class Explained:
    """What one explainer wrote."""

    explainer: str
    texts: Sequence[str]
    """All different."""
    slots: Mapping[str, Slots]
    """Of every run; rows are places in ``texts``."""


def read_explained(explainer: str, tables: Mapping[str, pa.Table], runs: Iterable[str]) -> Explained:
    """Look up the explanations of some runs.

    Args:
        tables: feature, half, explanation, missing_reason of every run.

    Raises:
        ValueError: if a run has no explanations.
    """
    runs = list(runs)
    if missing := [run for run in runs if run not in tables]:
        raise ValueError(
            f"no explanations of {explainer} for {', '.join(missing)}; materialize the explanations of every run first"
        )
    columns = [tables[run]["explanation"].combine_chunks().cast(pa.string()) for run in runs]
    texts = pc.unique(pa.chunked_array(columns)).drop_null()
    slots = {run: _slots(tables[run], texts, column) for run, column in zip(runs, columns, strict=True)}
    return Explained(explainer, texts.to_pylist(), slots)


def _slots(table: pa.Table, texts: pa.Array, column: pa.Array) -> Slots:
    feature, half = table["feature"].to_numpy(), table["half"].to_numpy()
    n = int(feature.max(initial=-1)) + 1
    row = np.full((n, N_HALVES), -1, np.int64)
    row[feature, half] = pc.fill_null(pc.index_in(column, texts, skip_nulls=True), -1).to_numpy()
    reason = np.full((n, N_HALVES), _NOT_DRAWN, object)
    reason[feature, half] = np.array(table["missing_reason"].to_pylist(), object)
    return Slots(row, reason, _NOT_DRAWN)
