"""Dagster's web page and daemon on this project (``concord ui``), once for each home."""

import fcntl
import os
import sys
from pathlib import Path
from typing import NoReturn

import dagster as dg
import yaml

from pipelines.project import ROOT, dagster_home

LOCK = "daemon.lock"
_NEEDED = ("telemetry", "nux", "run_monitoring", "run_retries", "concurrency")
"""Keys of ``pipelines/dagster.yaml`` that the project counts on."""


class AlreadyRuns(RuntimeError):
    """Another process serves this home."""


def serve(host: str, port: int) -> NoReturn:
    """Become ``dagster dev``.

    Raises:
        AlreadyRuns: if another one serves this home. Dagster itself would only log that there are two daemons, and
            both would launch what is queued and scheduled.
    """
    home = dagster_home()
    hold(home)
    with dg.DagsterInstance.get():
        pass  # webserver and daemon would make the database of a new home at the same moment, and trip over each other
    if missing := missing_settings(home):
        print(
            f"{home / 'dagster.yaml'} is from an earlier version and lacks {', '.join(missing)}: copy "
            f"{ROOT / 'pipelines' / 'dagster.yaml'} over it, or add them (they replace run_coordinator)",
            file=sys.stderr,
        )
    os.chdir(ROOT)
    dagster = str(Path(sys.executable).parent / "dagster")
    os.execv(dagster, [dagster, "dev", "-w", "workspace.yaml", "--host", host, "--port", str(port)])


def hold(home: Path) -> int:
    """Lock a home for this process and the program that it becomes; the system gives it back however that ends.

    Raises:
        AlreadyRuns: if another process holds it; the message has its pid.
    """
    held = os.open(home / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        pid = os.read(held, 32).decode().strip() or "unknown"
        os.close(held)
        raise AlreadyRuns(
            f"the Dagster UI and daemon already run on {home} (process {pid}): open their page, stop that process, or "
            "set DAGSTER_HOME to another folder; two daemons on one home would launch runs twice"
        ) from error
    os.ftruncate(held, 0)
    os.write(held, f"{os.getpid()}\n".encode())
    os.set_inheritable(held, True)
    return held


def missing_settings(home: Path) -> list[str]:
    """Keys that the ``dagster.yaml`` of a home from an earlier version lacks."""
    found = yaml.safe_load((home / "dagster.yaml").read_text(encoding="utf-8")) or {}
    return [key for key in _NEEDED if key not in found]
