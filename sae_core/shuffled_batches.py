"""Shuffled batches from a row of files of which one is read at a time. Beside *shards*."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy import ndarray
from torch import Tensor

Gather = Callable[[int, Int64[ndarray, " n"]], Float[Tensor, "n d_in"]]
"""``gather(file, rows)``: some rows of a file, in the given order."""


def shuffled_batches(
    sizes: Sequence[int],
    gather: Gather,
    batch_size: int,
    seed: int,
    start: int = 0,
    about_to_read: Callable[[int], None] | None = None,
) -> Iterator[Float[Tensor, "batch d_in"]]:
    """Endless float32 batches, an epoch after the other.

    Each epoch goes through the files in an order, and through the rows of a file in an order, that depend on (seed,
    epoch) alone; the rows left over at the end of an epoch, fewer than a batch, are left out of it.

    Args:
        sizes: rows of each file; together at least ``batch_size``.
        start: batches to skip, without reading them.
        about_to_read: told which file comes next when the reading of one begins.
    """
    n_rows = sum(sizes)
    epoch, batch = divmod(start, n_rows // batch_size)
    while True:
        order = np.random.default_rng([seed, epoch]).permutation(len(sizes))
        ends = np.cumsum([sizes[i] for i in order])
        reading, rows = -1, np.empty(0, np.int64)
        for first in range(batch * batch_size, n_rows - batch_size + 1, batch_size):
            pieces, at = [], first
            while at < first + batch_size:
                k = int(np.searchsorted(ends, at, side="right"))  # passes over files without rows
                file, begin = int(order[k]), int(ends[k - 1]) if k else 0
                if reading != k:
                    reading, rows = k, np.random.default_rng([seed, epoch, file]).permutation(sizes[file])
                    if about_to_read and k + 1 < len(order):
                        about_to_read(int(order[k + 1]))
                stop = min(first + batch_size, int(ends[k]))
                pieces.append(gather(file, rows[at - begin : stop - begin]))
                at = stop
            yield (pieces[0] if len(pieces) == 1 else torch.cat(pieces)).float()
        epoch, batch = epoch + 1, 0
