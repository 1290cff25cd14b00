"""Activation shards: Parquet files with one row a token, and their shuffled batches.

Between ``activations``, which writes them, and ``training``, ``evaluation`` and ``explanations``, which read them.

A folder holds ``shard-00000.parquet``, ... and ``shards.json``. A row is ``activation`` (fixed-size binary: d_in raw
little-endian numbers), ``token_id``, ``context_id`` (row of the contexts' split) and ``position``. Columns are not
null, without dictionary and compression, one page a row group: so the activation column of a file is one array at a
known offset, which is memory-mapped without a copy. Lists would read ten times slower. In plain pyarrow::

    table = pq.read_table("shard-00000.parquet")
    x = np.frombuffer(b"".join(table["activation"].to_pylist()), np.float16).reshape(-1, d_in)

Batches take the rows of a shard in random order, but of one shard after the other: when the reading of one begins, the
system is asked to read the next one in the background (``madvise``), so a disk that has nothing in memory yet sees
files read from front to back. The first use of a shard reads it from front to back anyway, for its digest. Training
takes its batches through ``prefetch``, so that a thread gathers the next ones during a step.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy import ndarray
from torch import Tensor

from sae_core.context_draws import is_drawn
from sae_core.shard_files import (
    DTYPES,
    FORMAT_VERSION,
    INDEX,
    DType,
    ShardData,
    ShardEntry,
    ShardError,
    ShardIndex,
    shard_name,
    write_index,
    write_shard,
)
from sae_core.shard_pages import ActivationPages, ask_ahead, map_pages
from sae_core.shuffled_batches import shuffled_batches
from sae_core.store import digest_file

__all__ = [
    "DType",
    "ShardData",
    "ShardEntry",
    "ShardError",
    "ShardIndex",
    "ShardSubset",
    "Shards",
    "open_shards",
    "write_index",
    "write_shard",
    "write_shards",
]


_OPEN_AT_ONCE = 8
"""Shards mapped at a time: each holds a file open, and there may be thousands of shards."""


class Shards:
    """A folder of shards, opened by ``open_shards``; a shard's digest is checked when it is first used."""

    def __init__(self, folder: Path, index: ShardIndex):
        self.folder, self.index = folder, index
        self._verified: set[int] = set()
        self._pages: dict[int, ActivationPages] = {}
        self._ids: dict[int, dict[str, ndarray]] = {}

    @property
    def n_tokens(self) -> int:
        """Rows of all shards."""
        return self.index.n_tokens

    @property
    def n_shards(self) -> int:
        """Number of files."""
        return len(self.index.shards)

    @property
    def d_in(self) -> int:
        """Width of an activation."""
        return self.index.d_in

    @property
    def dtype(self) -> DType:
        """Number format in the files; what is read is float32."""
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
        sizes = [entry.n_tokens for entry in self.index.shards]
        return shuffled_batches(sizes, self.gather, batch_size, seed, start, self.ask_ahead)

    def subset(self, fraction: float, seed: int) -> "ShardSubset":
        """The rows of a share of the contexts, each drawn with probability ``fraction``.

        Reads the context ids of all shards once, a shard at a time.
        """
        return ShardSubset(self, fraction, seed)

    def gather(self, i: int, rows: Int64[ndarray, " n"]) -> Float[Tensor, "n d_in"]:
        """Some rows of a shard, in the given order and the stored format."""
        return self._open(i).gather(rows)

    def ask_ahead(self, i: int) -> None:
        """Let the system read a shard in the background."""
        ask_ahead(self.folder / self.index.shards[i].file)

    def context_ids(self, i: int) -> Int64[ndarray, " n"]:
        """Contexts of all rows of a shard."""
        ids: Int64[ndarray, " n"] = self._map(i).columns("context_id")["context_id"]
        return ids

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
        if i not in self._verified:
            self._verify(i)
            self._verified.add(i)
        return self._map(i)

    def _map(self, i: int) -> ActivationPages:
        if i not in self._pages:
            if len(self._pages) >= _OPEN_AT_ONCE:
                del self._pages[next(iter(self._pages))]
            self._pages[i] = map_pages(self.folder / self.index.shards[i].file, self.d_in, DTYPES[self.dtype])
        return self._pages[i]

    def _columns(self, i: int) -> dict[str, ndarray]:
        if i not in self._ids:
            self._ids = {i: self._map(i).columns("token_id", "context_id", "position")}
        return self._ids[i]

    def _rows(self, i: int, first: int, stop: int) -> ShardData:
        pages, ids = self._open(i), self._columns(i)
        return ShardData(
            pages.between(first, stop).to(torch.float32, copy=True),
            ids["token_id"][first:stop],
            ids["context_id"][first:stop],
            ids["position"][first:stop],
        )


class ShardSubset:
    """The rows of the contexts that were drawn; made by ``Shards.subset``.

    Kept in memory are the number of rows drawn of every shard, and which they are of the one that is read now.
    """

    def __init__(self, shards: Shards, fraction: float, seed: int):
        self._shards, self.fraction, self.seed = shards, fraction, seed
        self._rows_of: dict[int, Int64[ndarray, " n"]] = {}
        self._sizes = [len(self._drawn_rows(i)) for i in range(shards.n_shards)]

    @property
    def n_tokens(self) -> int:
        """Rows of the contexts drawn."""
        return sum(self._sizes)

    @property
    def d_in(self) -> int:
        """Width of an activation."""
        return self._shards.d_in

    @property
    def mean_squared_norm(self) -> float:
        """That of *all* tokens, not only of those drawn.

        Runs that draw other contexts then train on one scale, so that losses, penalties and thresholds mean the same
        in all of them; and no pass over the activations is needed.
        """
        return self._shards.mean_squared_norm

    def batches(self, batch_size: int, seed: int, start: int = 0) -> Iterator[Float[Tensor, "batch d_in"]]:
        """As ``Shards.batches``, from the contexts drawn alone.

        Raises:
            ValueError: if they have fewer tokens than ``batch_size``.
            ShardError: if a shard's digest is wrong.
        """
        if not 1 <= batch_size <= self.n_tokens:
            raise ValueError(
                f"batch_size must be between 1 and the {self.n_tokens:,} tokens drawn from {self._shards.folder} "
                f"(data_fraction {self.fraction:g}, data_seed {self.seed}): got {batch_size:,}; lower "
                "training.batch_size, raise training.data_fraction or read more text"
            )
        return shuffled_batches(self._sizes, self._gather, batch_size, seed, start, self._shards.ask_ahead)

    def _gather(self, shard: int, rows: Int64[ndarray, " n"]) -> Float[Tensor, "n d_in"]:
        if shard not in self._rows_of:
            self._rows_of = {shard: self._drawn_rows(shard)}
        return self._shards.gather(shard, self._rows_of[shard][rows])

    def _drawn_rows(self, shard: int) -> Int64[ndarray, " n"]:
        return np.flatnonzero(is_drawn(self._shards.context_ids(shard), self.fraction, self.seed))


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


def write_shards(folder: Path, shards: Iterable[ShardData], dtype: DType = "float16") -> Shards:
    """Write a whole folder of shards, for data that does not come from a language model."""
    folder.mkdir(parents=True, exist_ok=True)
    entries, d_in = [], 0
    for i, shard in enumerate(shards):
        d_in = shard.activations.shape[1]
        columns = (shard.token_ids, shard.context_ids, shard.positions)
        entries.append(write_shard(folder / shard_name(i), shard.activations, *columns, dtype))
    write_index(folder, entries, d_in, dtype)
    return open_shards(folder)
