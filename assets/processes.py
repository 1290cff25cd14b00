"""Which process works on a run: Dagster's default launcher does not look whether it still lives."""

import os
import platform
from dataclasses import dataclass

import dagster as dg
import psutil

PROCESS_TAG = "sae_concord/process"
"""Tag of a run: ``<host>:<pid>:<seconds between the boot of the host and the start of the process>``."""
_TOLERANCE_S = 2.0


@dataclass(frozen=True)
class Process:
    """A process of some host. The time of its start tells it from a later one with the same number."""

    host: str
    pid: int
    started: float
    """Seconds since the host was booted: unlike the time of day it stays the same when the clock is set."""

    @classmethod
    def of_tag(cls, tag: str) -> "Process | None":
        """The process that a tag names; None where it names none."""
        try:
            host, pid, started = tag.rsplit(":", 2)
            return cls(host, int(pid), float(started))
        except ValueError:
            return None

    @property
    def tag(self) -> str:
        """As it is written to a run."""
        return f"{self.host}:{self.pid}:{self.started:.2f}"

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, a process of this host."""
        return self.host == platform.node()

    @property
    def lives(self) -> bool:
        """Whether it still runs; only for a process of this host."""
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:  # dead; whoever started it has not noticed yet
                return False
            return abs(_started(process) - self.started) <= _TOLERANCE_S
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:  # it is there, and of another user
            return True


def this_process() -> Process:
    """The process that asks."""
    return Process(platform.node(), os.getpid(), _started(psutil.Process()))


def _started(process: psutil.Process) -> float:
    boot = psutil.boot_time()
    return float(process.create_time() - boot)


def mark_process(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> None:
    """Write to the run which process works on it, so that it can be closed when that process is killed."""
    tag = this_process().tag
    if context.run.tags.get(PROCESS_TAG) != tag and context.instance.has_run(context.run_id):
        context.instance.add_run_tags(context.run_id, {PROCESS_TAG: tag})
