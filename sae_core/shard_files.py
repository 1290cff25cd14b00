"""One shard as a Parquet file, and the index of a folder of shards: how they are written.

The format is described in ``shards``, which reads it.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int32, Int64
from numpy import ndarray
from torch import Tensor

from sae_core.config import Result
from sae_core.store import digest_file
from sae_core.whole_files import write_whole

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


def to_stored(
    activations: Float[Tensor, "n d_in"], dtype: DType, name: str, context_ids: ndarray
) -> Float[Tensor, "n d_in"]:
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
            squares.append(math.fsum(stored.float().square().sum(dim=1).tolist()))
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
    write_whole(folder / INDEX, lambda part: part.write_text(index.model_dump_json(indent=1)))
    return index


def shard_name(i: int) -> str:
    """File name of the i-th shard."""
    return f"shard-{i:05d}.parquet"
