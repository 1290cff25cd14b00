"""The files of a *contexts* artifact: how they are written, a range of features at a time, and read."""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool

from sae_core.config import Result
from sae_core.feature_contexts.codes import FeatureCodes
from sae_core.feature_contexts.contexts import EXAMPLE_SCHEMA, N_HALVES, WORD_SCHEMA, FeatureContexts
from sae_core.whole_files import write_whole

CODE_SCHEMA = pa.schema(
    [
        pa.field("feature", pa.int32(), nullable=False),
        pa.field("token", pa.int32(), nullable=False),
        pa.field("activation", pa.float32(), nullable=False),
    ]
)
"""``codes.parquet``: every active code, in the order of feature, then token."""
_CODE_OPTIONS: dict[str, Any] = {
    "use_dictionary": ["feature"],
    "column_encoding": {"token": "DELTA_BINARY_PACKED", "activation": "BYTE_STREAM_SPLIT"},
}
_TABLES: dict[str, tuple[pa.Schema, dict[str, Any]]] = {
    "codes": (CODE_SCHEMA, _CODE_OPTIONS),
    "examples": (EXAMPLE_SCHEMA, {}),
    "words": (WORD_SCHEMA, {}),
}
_LOOKED_AT = "looked_at.npy"


class ContextsSummary(Result):
    """What a run's contexts are; ``summary.json``."""

    d_sae: int
    n_features: int
    """Features that fire at all."""
    n_codes: int
    """Active codes."""
    n_tokens: list[int]
    """Tokens looked at, in each half."""
    n_held_out_tokens: int
    """All held-out tokens, those not looked at among them."""
    n_documents: list[int]
    """Documents looked at, in each half."""
    n_pool: int
    """Places among which silent windows were looked for."""
    n_examples: dict[str, int]
    """Examples of each kind."""
    n_features_without_negatives: int
    """Features that fire so often that in a half no window was found in which they are silent."""


class ContextFiles:
    """The three tables that grow by ranges of features, a row group each; whole or not there: a context manager."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._writers = {
            name: pq.ParquetWriter(folder / f"{name}.part", schema, compression="zstd", **options)
            for name, (schema, options) in _TABLES.items()
        }

    def __enter__(self) -> "ContextFiles":
        return self

    def add(self, **tables: pa.Table) -> None:
        """Append the ``codes``, ``examples`` and ``words`` of a range."""
        for name, table in tables.items():
            self._writers[name].write_table(table, row_group_size=max(1, len(table)))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for name, writer in self._writers.items():
            writer.close()
            if kind is None:
                os.replace(self._folder / f"{name}.part", self._folder / f"{name}.parquet")


def code_table(codes: FeatureCodes) -> pa.Table:
    """Rows of ``codes.parquet``."""
    feature = np.repeat(codes.features, np.diff(codes.start)).astype(np.int32)
    return pa.table([feature, codes.token, codes.activation], schema=CODE_SCHEMA)


def write_looked_at(folder: Path, looked_at: Bool[np.ndarray, " n"]) -> None:
    """Write which held-out tokens were encoded, a bit each."""

    def write(part: Path) -> None:
        with open(part, "wb") as file:
            np.save(file, np.packbits(looked_at))

    write_whole(folder / _LOOKED_AT, write)


def read_contexts(folder: Path) -> FeatureContexts:
    """What ``collect_contexts`` left in a folder.

    Raises:
        FileNotFoundError: if nothing, or not all of it, is there.
    """
    try:
        summary = ContextsSummary.model_validate(json.loads((folder / "summary.json").read_text()))
    except FileNotFoundError:
        raise FileNotFoundError(f"no feature contexts in {folder}; materialize <study>/contexts first") from None
    codes, features = pq.read_table(folder / "codes.parquet"), pq.read_table(folder / "features.parquet")
    fired = features["n_activations"].to_numpy().reshape(-1, N_HALVES)
    return FeatureContexts(
        d_sae=summary.d_sae,
        features=features["feature"].to_numpy()[::N_HALVES].astype(np.int64),
        n_fired=fired,
        n_tokens=np.array(summary.n_tokens, np.int64),
        max_activation=features["max_activation"].to_numpy().reshape(-1, N_HALVES),
        promoted=features["promoted"].to_pylist()[::N_HALVES],
        code_start=np.append(0, np.cumsum(fired.sum(axis=1))).astype(np.int64),
        code_token=codes["token"].to_numpy().astype(np.int64),
        code_activation=codes["activation"].to_numpy(),
        example_table=pq.read_table(folder / "examples.parquet"),
        word_table=pq.read_table(folder / "words.parquet"),
        looked_at=np.flatnonzero(np.unpackbits(np.load(folder / _LOOKED_AT))).astype(np.int64),
    )
