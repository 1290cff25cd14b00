"""Activation shards: Parquet files with one row a token, and their shuffled batches.

Between ``activations``, which writes them, and ``training``, ``evaluation`` and ``explanations``, which read them.

A folder holds ``shard-00000.parquet``, ... and ``shards.json``. A row is ``activation`` (fixed-size binary: d_in raw
little-endian numbers), ``token_id``, ``context_id`` (row of the contexts' split) and ``position``. Columns are not
null, without dictionary and compression, one page a row group: so the activation column of a file is one array at a
known offset, which is memory-mapped without a copy. Lists would read ten times slower. In plain pyarrow::

    table = pq.read_table("shard-00000.parquet")
    x = np.frombuffer(b"".join(table["activation"].to_pylist()), np.float16).reshape(-1, d_in)
"""

import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int32, Int64
from numpy import ndarray
from torch import Tensor

from sae_core.config import Result
from sae_core.shard_pages import ActivationPages, map_pages
from sae_core.store import digest_file

DType = Literal["float16", "bfloat16", "float32"]
INDEX = "shards.json"
FORMAT_VERSION = 1
DTYPES: dict[str, torch.dtype] = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
ROW_GROUP_BYTES = 2**28
"""A row group is one page, and the size of a Parquet page must fit into 31 bits."""


class ShardError(RuntimeError):
    """A shard is missing, altered, or made by a newer version of the project."""


class ShardEntry(Result):
    """One shard in ``shards.json``."""

    file: str
    n_tokens: int
    sha256: str
    sum_squared_norm: float
    """Sum over the rows of the squared Euclidean norm, of the values as stored."""


class ShardIndex(Result):
    """What ``shards.json`` holds."""

    format_version: int = FORMAT_VERSION
    d_in: int
    dtype: DType
    n_tokens: int
    mean_squared_norm: float
    """Mean over all tokens of the squared Euclidean norm."""
    shards: list[ShardEntry]


@dataclass(frozen=True)
class ShardData:
    """Rows in stored order."""

    activations: Float[Tensor, "n d_in"]
    """float32 when read; any float format when written."""
    token_ids: Int32[ndarray, " n"]
    context_ids: Int64[ndarray, " n"]
    positions: Int32[ndarray, " n"]


# --- writing ----------------------------------------------------------------------------------------------------


def to_stored(activations: Float[Tensor, "n d_in"], dtype: DType, name: str, context_ids: ndarray) -> Float[Tensor, "n d_in"]:
    """Activations in the format of the shards.

    Raises:
        ValueError: if a value is NaN or infinite, or does not fit into float16; the message names shard and context.
    """
    stored = activations.to(DTYPES[dtype])
    bad = ~torch.isfinite(stored).all(dim=1)
    if not bad.any():
        return stored
    row = int(bad.nonzero()[0])
    where = f"{name}, context {int(context_ids[row])}"
    if torch.isfinite(activations[row]).all():
        largest = float(activations[row].abs().max())
        raise ValueError(
            f"{where}: an activation of {largest:.6g} does not fit into {dtype} (at most "
            f"{torch.finfo(DTYPES[dtype]).max:g}); set activations.dtype to bfloat16"
        )
    raise ValueError(
        f"{where}: expected finite activations, got NaN or infinity in {int(bad.sum())} of {len(bad)} rows; "
        "run the language model in float32, or check its weights"
    )


def write_shard(
    path: Path,
    activations: Float[Tensor, "n d_in"],
    token_ids: Int32[ndarray, " n"],
    context_ids: Int64[ndarray, " n"],
    positions: Int32[ndarray, " n"],
    dtype: DType,
) -> ShardEntry:
    """Write one shard, atomically: under another name first.

    Raises:
        ValueError: if a value is NaN or infinite, or does not fit into float16.
    """
    n, d_in = activations.shape
    width = d_in * DTYPES[dtype].itemsize
    columns = {"token_id": pa.int32(), "context_id": pa.int64(), "position": pa.int32()}
    fields = [pa.field("activation", pa.binary(width), nullable=False)]
    fields += [pa.field(name, kind, nullable=False) for name, kind in columns.items()]
    schema = pa.schema(fields, {"dtype": dtype, "d_in": str(d_in), "format_version": str(FORMAT_VERSION)})
    n_rows = max(1, ROW_GROUP_BYTES // width)
    part = path.with_name(path.name + ".part")
    squares: list[float] = []
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    with pq.ParquetWriter(part, schema, **options, data_page_size=2**31 - 1, max_rows_per_page=2**31 - 1) as writer:
        for i in range(0, n, n_rows):
            rows = slice(i, i + n_rows)
            stored = to_stored(activations[rows], dtype, path.name, context_ids[rows]).contiguous()
            # A row is summed in one thread and the rows by fsum: the number of threads changes no bit.
            squares.append(math.fsum(stored.float().square_().sum(dim=1).tolist()))
            raw = pa.py_buffer(stored.view(torch.uint8).numpy())
            arrays = [pa.Array.from_buffers(pa.binary(width), len(stored), [None, raw])]
            given = (token_ids[rows], context_ids[rows], positions[rows])
            arrays += [pa.array(column, kind) for column, kind in zip(given, columns.values(), strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=n_rows)
    os.replace(part, path)
    return ShardEntry(file=path.name, n_tokens=n, sha256=digest_file(path), sum_squared_norm=math.fsum(squares))


def write_index(folder: Path, entries: list[ShardEntry], d_in: int, dtype: DType) -> ShardIndex:
    """Write ``shards.json``, which makes the folder readable by ``open_shards``.

    Raises:
        ValueError: if there is no token.
    """
    n_tokens = sum(entry.n_tokens for entry in entries)
    if n_tokens == 0:
        raise ValueError(f"expected at least one token for {folder}, got none; read more text")
    mean = math.fsum(entry.sum_squared_norm for entry in entries) / n_tokens
    index = ShardIndex(d_in=d_in, dtype=dtype, n_tokens=n_tokens, mean_squared_norm=mean, shards=entries)
    part = folder / (INDEX + ".part")
    part.write_text(index.model_dump_json(indent=1))
    os.replace(part, folder / INDEX)
    return index


def shard_name(i: int) -> str:
    """File name of the i-th shard."""
    return f"shard-{i:05d}.parquet"


def write_shards(folder: Path, shards: Iterable[ShardData], dtype: DType = "float16") -> "Shards":
    """Write a whole folder of shards, for data that does not come from a language model."""
    folder.mkdir(parents=True, exist_ok=True)
    entries, d_in = [], 0
    for i, shard in enumerate(shards):
        d_in = shard.activations.shape[1]
        columns = (shard.token_ids, shard.context_ids, shard.positions)
        entries.append(write_shard(folder / shard_name(i), shard.activations, *columns, dtype))
    write_index(folder, entries, d_in, dtype)
    return open_shards(folder)


# --- reading ----------------------------------------------------------------------------------------------------


class Shards:
    """A folder of shards, opened by ``open_shards``; a shard's digest is checked when it is first used."""

    def __init__(self, folder: Path, index: ShardIndex):
        self.folder, self.index = folder, index
        self._pages: dict[int, ActivationPages] = {}

    @property
    def n_tokens(self) -> int:
        return self.index.n_tokens

    @property
    def n_shards(self) -> int:
        return len(self.index.shards)

    @property
    def d_in(self) -> int:
        return self.index.d_in

    @property
    def dtype(self) -> DType:
        return self.index.dtype

    @property
    def mean_squared_norm(self) -> float:
        """Mean over all tokens of the squared Euclidean norm of the stored activations."""
        return self.index.mean_squared_norm

    def batches(self, batch_size: int, seed: int, start: int = 0) -> Iterator[Float[Tensor, "batch d_in"]]:
        """Endless shuffled float32 batches.

        Each epoch goes through the shards in an order, and through the rows of a shard in an order, that depend on
        (seed, epoch) alone; the rows left over at the end of an epoch, fewer than a batch, are left out of it.

        Args:
            start: batches to skip, without reading them: a run that resumes at step n passes n.

        Raises:
            ValueError: if there are fewer tokens than ``batch_size``.
            ShardError: if a shard's digest is wrong.
        """
        if not 1 <= batch_size <= self.n_tokens:
            raise ValueError(
                f"batch_size must be between 1 and the {self.n_tokens:,} tokens in {self.folder}: got {batch_size:,}; "
                "lower training.batch_size or read more text"
            )
        return self._batches(batch_size, seed, start)  # so that the refusal comes now, not with the first batch

    def _batches(self, batch_size: int, seed: int, start: int) -> Iterator[Tensor]:
        epoch, batch = divmod(start, self.n_tokens // batch_size)
        while True:
            order = np.random.default_rng([seed, epoch]).permutation(self.n_shards)
            ends = np.cumsum([self.index.shards[i].n_tokens for i in order])
            rows: dict[int, ndarray] = {}
            for first in range(batch * batch_size, self.n_tokens - batch_size + 1, batch_size):
                pieces = []
                at, k = first, int(np.searchsorted(ends, first, side="right"))
                while at < first + batch_size:
                    shard, begin = int(order[k]), int(ends[k - 1]) if k else 0
                    if shard not in rows:
                        n = self.index.shards[shard].n_tokens
                        rows = {shard: np.random.default_rng([seed, epoch, shard]).permutation(n)}
                    stop = min(first + batch_size, int(ends[k]))
                    pieces.append(self._open(shard).gather(rows[shard][at - begin : stop - begin]))
                    at, k = stop, k + 1
                yield (pieces[0] if len(pieces) == 1 else torch.cat(pieces)).float()
            epoch, batch = epoch + 1, 0

    def read(self, i: int) -> ShardData:
        """All rows of a shard, in stored order."""
        return self._rows(i, 0, self.index.shards[i].n_tokens)

    def in_order(self, n_rows: int) -> Iterator[ShardData]:
        """All rows in stored order, at most ``n_rows`` at a time (a block does not cross two shards)."""
        for i, entry in enumerate(self.index.shards):
            for first in range(0, entry.n_tokens, n_rows):
                yield self._rows(i, first, min(first + n_rows, entry.n_tokens))

    def verify(self) -> None:
        """Hash every shard again.

        Raises:
            ShardError: if one is missing or its digest is not that of ``shards.json``.
        """
        for i in range(self.n_shards):
            self._verify(i)

    def _verify(self, i: int) -> None:
        entry = self.index.shards[i]
        path = self.folder / entry.file
        if not path.exists():
            raise ShardError(f"{path} is missing; materialize activations again")
        if (found := digest_file(path)) != entry.sha256:
            raise ShardError(
                f"{path} has sha256 {found[:12]}, expected {entry.sha256[:12]}: it was altered; delete this artifact "
                "and materialize activations again"
            )

    def _open(self, i: int) -> ActivationPages:
        if i not in self._pages:
            self._verify(i)
            self._pages[i] = map_pages(self.folder / self.index.shards[i].file, self.d_in, DTYPES[self.dtype])
        return self._pages[i]

    def _rows(self, i: int, first: int, stop: int) -> ShardData:
        pages = self._open(i)
        ids = pages.columns()
        return ShardData(
            pages.between(first, stop).float(),
            ids["token_id"][first:stop],
            ids["context_id"][first:stop],
            ids["position"][first:stop],
        )


def open_shards(folder: str | Path) -> Shards:
    """The shards in a folder.

    Raises:
        FileNotFoundError: if there is none.
        ShardError: if a newer version of the project wrote them.
    """
    folder = Path(folder)
    try:
        text = (folder / INDEX).read_text()
    except FileNotFoundError:
        raise FileNotFoundError(f"no shard in {folder}; materialize activations/<model>/<hook> first") from None
    version = json.loads(text)["format_version"]
    if version > FORMAT_VERSION:
        raise ShardError(
            f"{folder} has format version {version}, this version of sae-concord reads up to {FORMAT_VERSION}; "
            "upgrade sae-concord"
        )
    return Shards(folder, ShardIndex.model_validate_json(text))
