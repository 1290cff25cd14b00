"""How the numba kernels of this project are compiled and run. No kernel has ``fastmath``: ``ordered_dots`` says why."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numba
import torch

SERIAL: dict[str, Any] = {"cache": True, "error_model": "numpy"}
PARALLEL: dict[str, Any] = {**SERIAL, "parallel": True}


@contextmanager
def torch_threads() -> Iterator[None]:
    """Run kernels on as many threads as torch is allowed."""
    n_threads = torch.get_num_threads()
    before = numba.get_num_threads()
    if torch.get_num_threads() != n_threads:  # numba has just started its threads: all cores', of torch's OpenMP too
        torch.set_num_threads(n_threads)
    numba.set_num_threads(max(1, min(n_threads, numba.config.NUMBA_NUM_THREADS)))
    try:
        yield
    finally:
        numba.set_num_threads(before)
