"""What an alert says, and where it goes: a file of JSON lines, the log, and a function of the user's."""

import importlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import dagster as dg

HOOK = "SAE_CONCORD_ALERT_HOOK"
"""Environment variable: ``package.module:function``, called with every alert."""
UI = "SAE_CONCORD_UI"
"""Environment variable: address of the web server (``http://host:3000``), put before the paths in alerts."""
FILE = "alerts.jsonl"


@dataclass(frozen=True)
class Alert:
    """Something that someone should look at."""

    severity: Literal["error", "warning", "info"]
    kind: Literal["run_failed", "check_failed", "check_warned", "recovered", "hook_failed"]
    """``check_failed``: a check whose failure is an error; ``check_warned``: one that warns; ``recovered``: one that
    failed before and passes; ``hook_failed``: the user's function could not be called."""
    message: str
    """A sentence or more: what happened, what was expected, what to do."""
    asset: str | None = None
    """Key, as in ``small/consistency``; several with commas."""
    partition: str | None = None
    check: str | None = None
    """Name of the check."""
    run_id: str | None = None
    url: str | None = None
    """Page of the UI; only its path, unless ``SAE_CONCORD_UI`` has the address of the server."""
    values: dict[str, Any] = field(default_factory=dict)
    """JSON values: of a check what it found, expected, and says to do; of a run its job and whether it is retried."""
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    """UTC."""

    def __str__(self) -> str:
        what = (self.asset or "") + (f" [{self.partition}]" if self.partition else "")
        what += f", {self.check}" if self.check else ""
        return f"{self.kind}: {what}: {self.message}" if what else f"{self.kind}: {self.message}"


Hook = Callable[[Alert], None]


class HookError(ValueError):
    """The function that ``SAE_CONCORD_ALERT_HOOK`` names is not there."""


def load_hook() -> Hook | None:
    """The function that ``SAE_CONCORD_ALERT_HOOK`` names; None where it is not set.

    Raises:
        HookError: if it cannot be imported, or is no function.
    """
    name = os.environ.get(HOOK, "").strip()
    if not name:
        return None
    module, colon, function = name.partition(":")
    if not colon or not module or not function:
        raise HookError(f"{HOOK} must be package.module:function, got {name!r}; alerts are written to the file alone")
    # Importing runs the user's code, which may raise anything.
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:
        raise HookError(
            f"{HOOK}={name} cannot be imported ({type(error).__name__}: {error}); correct it, or install the module "
            "where the code server runs; until then alerts are written to the file alone"
        ) from error
    if not callable(found):
        raise HookError(f"{HOOK}={name} is a {type(found).__name__}, expected a function of one alert")
    hook: Hook = found
    return hook


def alerts_file(instance: dg.DagsterInstance) -> Path:
    """``$DAGSTER_HOME/alerts.jsonl``."""
    return Path(instance.root_directory) / FILE


def deliver(alert: Alert, instance: dg.DagsterInstance, log: logging.Logger) -> None:
    """Write an alert to the file and the log, and hand it to the hook. A hook that fails is an alert of its own, in the
    file and the log; it stops nothing.
    """
    _write(alert, instance, log)
    # The user's code, which may raise anything: the other alerts must still go out.
    try:
        hook = load_hook()
        if hook is not None:
            hook(alert)
    except Exception as error:
        text = str(error) if isinstance(error, HookError) else f"{os.environ.get(HOOK)} raised {error!r}"
        _write(Alert("error", "hook_failed", text, values={"alert": asdict(alert)}), instance, log)


def _write(alert: Alert, instance: dg.DagsterInstance, log: logging.Logger) -> None:
    level = {"error": logging.ERROR, "warning": logging.WARNING, "info": logging.INFO}[alert.severity]
    log.log(level, "%s", alert)
    try:
        # One write of one line, appended: lines of several processes do not mix.
        with open(alerts_file(instance), "a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(alert), ensure_ascii=False) + "\n")
    except OSError as error:
        log.error("%s cannot be written (%s); the alert was: %s", alerts_file(instance), error, alert)


def url(path: str) -> str:
    """A page of the UI."""
    return os.environ.get(UI, "").rstrip("/") + path
