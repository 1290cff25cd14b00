"""Alerts: a sensor for failed runs and one for failed checks, each failure reported once.

Both run as soon as the daemon does. The alerts go where :mod:`pipelines.alert_hooks` says.
"""

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from pipelines.alert_hooks import Alert, HookError, deliver, load_hook, url
from pipelines.failures import failure_message

_OVERLAP_S = 300.0
"""How long a run is looked at after its status changed: clocks of several machines differ."""
_AT_ONCE = 20
"""Alerts of one tick, which has a minute: a hook may take a second or two for each. The others follow."""
_RUNNING = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


def alert_definitions() -> dg.Definitions:
    """The sensors. A hook that cannot be imported is said in their descriptions and in the log, and stops nothing."""
    note = ""
    try:
        load_hook()
    except HookError as error:
        note = f" **{error}**"
        logging.getLogger("dagster").error("%s", error)
    return dg.Definitions(sensors=[_run_failure_sensor(note), _check_failure_sensor(note)])


def _run_failure_sensor(note: str) -> dg.SensorDefinition:
    @dg.run_failure_sensor(
        name="alert_on_run_failure",
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Reports every run that failed: to alerts.jsonl, and to the hook." + note,
    )
    def alert_on_run_failure(context: dg.RunFailureSensorContext) -> None:
        deliver(_of_run(context), context.instance, context.log)

    return alert_on_run_failure


def _of_run(context: dg.RunFailureSensorContext) -> Alert:
    run = context.dagster_run
    reasons = [failure_message(event) for event in context.get_step_failure_events()]
    assets = sorted(key.to_user_string() for key in run.asset_selection or ())
    return Alert(
        severity="error",
        kind="run_failed",
        message="; ".join(filter(None, reasons)) or context.failure_event.message or "the run failed",
        asset=", ".join(assets) or None,
        partition=run.tags.get("dagster/partition"),
        run_id=run.run_id,
        url=url(f"/runs/{run.run_id}"),
        values={"job": run.job_name, "will_retry": run.tags.get("dagster/will_retry") == "true"},
    )


@dataclass
class _Cursor:
    """What has been reported."""

    since: float
    """Time of the last tick, seconds."""
    seen: dict[str, int] = field(default_factory=dict)
    """For every run that may still evaluate checks the id of its last event that was handled."""
    failing: list[str] = field(default_factory=list)
    """Checks that fail, with asset and partition: to report when they pass again."""


def _check_failure_sensor(note: str) -> dg.SensorDefinition:
    @dg.sensor(
        name="alert_on_check_failure",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Reports every check that failed, and those that pass again: to alerts.jsonl, and to the hook."
        + note,
    )
    def alert_on_check_failure(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        now = time.time()
        old = None if context.cursor is None else _Cursor(**json.loads(context.cursor))
        cursor, alerts, complete = _new_alerts(context.instance, old, now)
        for alert in alerts:
            deliver(alert, context.instance, context.log)
        if not complete and old is not None:  # runs that could not be looked at now must stay in view
            cursor.since = old.since
        return dg.SensorResult(
            skip_reason=f"reported {len(alerts)} checks" + ("" if complete else "; more follow"),
            cursor=json.dumps(asdict(cursor)),
        )

    return alert_on_check_failure


def _new_alerts(instance: dg.DagsterInstance, old: _Cursor | None, now: float) -> tuple[_Cursor, list[Alert], bool]:
    """What happened since a cursor; on the first look (None) nothing, as history is not news.

    SQLite keeps the events of each run in a file of its own, with ids of its own, and a run's status may not change
    for hours while it evaluates checks: so this asks for the runs that are running or were lately, and in each of them
    for what came after the last id.
    """
    new = _Cursor(now, failing=[] if old is None else list(old.failing))
    alerts: list[Alert] = []
    complete = True
    oldest = (now if old is None else old.since) - _OVERLAP_S
    for run in _runs(instance, oldest):
        last = 0 if old is None else old.seen.get(run.run_id, 0)
        for record in _evaluations(instance, run.run_id, last):
            # A run that ended long ago comes into view again when it gets a tag.
            if record.timestamp < oldest:
                continue
            if len(alerts) >= _AT_ONCE:
                complete = False
                break
            last = record.storage_id
            if old is not None and (alert := _of_evaluation(run, record, new.failing)):
                alerts.append(alert)
        new.seen[run.run_id] = last
    return new, alerts, complete


def _runs(instance: dg.DagsterInstance, since: float) -> list[dg.DagsterRun]:
    """Runs whose checks may have been evaluated since a time, the one that changed first first."""
    lately = dg.RunsFilter(updated_after=datetime.fromtimestamp(since, UTC))
    found = {
        record.dagster_run.run_id: record.dagster_run
        for filters in (lately, dg.RunsFilter(statuses=_RUNNING))
        for record in instance.get_run_records(filters, order_by="update_timestamp", ascending=True)
    }
    return list(found.values())


def _evaluations(instance: dg.DagsterInstance, run_id: str, last: int) -> Iterator[dg.EventLogRecord]:
    kind, cursor = dg.DagsterEventType.ASSET_CHECK_EVALUATION, None
    while True:
        page = instance.get_records_for_run(run_id, cursor=cursor, of_type=kind, limit=100)
        yield from (record for record in page.records if record.storage_id > last)
        if not page.has_more:
            return
        cursor = page.cursor


def _of_evaluation(run: dg.DagsterRun, record: dg.EventLogRecord, failing: list[str]) -> Alert | None:
    """The alert of an evaluation, if it is one; it keeps ``failing`` up to date."""
    event = record.event_log_entry.dagster_event
    assert event is not None
    found: Any = event.event_specific_data
    # A check that looks at all partitions at once belongs to none, whatever partition its run is of.
    partition = found.partition or (run.tags.get("dagster/partition") if found.check_name != "in_store" else None)
    asset = found.asset_key.to_user_string()
    name = json.dumps([asset, partition, found.check_name])
    was_failing = name in failing
    if found.passed:
        if not was_failing:
            return None
        failing.remove(name)
    elif not was_failing:
        failing.append(name)
    is_error = found.severity == dg.AssetCheckSeverity.ERROR
    return Alert(
        severity="info" if found.passed else ("error" if is_error else "warning"),
        kind="recovered" if found.passed else ("check_failed" if is_error else "check_warned"),
        message="it passes again" if found.passed else (found.description or "the check failed"),
        asset=asset,
        partition=partition,
        check=found.check_name,
        run_id=run.run_id,
        url=url(f"/assets/{'/'.join(found.asset_key.path)}?view=checks&checkDetail={found.check_name}"),
        values={label: value.value for label, value in found.metadata.items() if _is_plain(value.value)},
    )


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))
