"""How much time and memory a matching may take, and who watches it: a part of *consistency*."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sae_core.progress import Progress, silent

clock: Callable[[], float] = time.monotonic
"""Seconds; only differences count."""


@dataclass
class Budget:
    """Limits that are looked at between pieces of work, and the first one that was reached.

    Raises:
        ValueError: if a limit is not positive.
    """

    time_s: float | None = None
    """Seconds from now on; None for no limit."""
    memory_bytes: int | None = None
    """Bytes that lists, prices and blocks of scores may take; None for no limit."""
    progress: Progress = silent
    stopped: str | None = None
    """The limit that was reached and where, for people; None as long as none was."""
    _reserved: int = 0
    _start: float = field(default_factory=lambda: clock())

    def __post_init__(self) -> None:
        for name, limit in self.limits.items():
            if limit is not None and not limit > 0:
                raise ValueError(f"{name} must be positive, got {limit}; None sets no limit")

    @property
    def limits(self) -> dict[str, float | None]:
        """The limits by the names under which they are given."""
        return {"time_budget_s": self.time_s, "memory_budget_bytes": self.memory_bytes}

    def reserve(self, n_bytes: int, what: str) -> None:
        """Take so much off the memory for good.

        Raises:
            ValueError: if nothing is left then.
        """
        self._reserved += n_bytes
        if self.room is not None and self.room <= 0:
            raise ValueError(
                f"memory_budget_bytes of {self.memory_bytes:,} is too small: {what} alone take {n_bytes:,} bytes"
            )

    @property
    def room(self) -> int | None:
        """Bytes that are left; None for no limit."""
        return None if self.memory_bytes is None else self.memory_bytes - self._reserved

    def stop(self, reason: str) -> None:
        """End the search here."""
        self.stopped = reason

    def time_is_up(self, where: str) -> bool:
        """Whether the time is used up; says where when that is seen first."""
        if self.stopped is None and self.time_s is not None and clock() - self._start >= self.time_s:
            self.stop(f"time budget of {self.time_s:g} s used up: {where}")
        return self.stopped is not None

    def is_full(self, n_bytes: int, where: str) -> bool:
        """Whether so many bytes are too many; says where when that is seen first."""
        if self.stopped is None and self.memory_bytes is not None and self._reserved + n_bytes > self.memory_bytes:
            self.stop(f"memory budget of {self.memory_bytes / 2**20:,.0f} MiB used up: {where}")
        return self.stopped is not None
