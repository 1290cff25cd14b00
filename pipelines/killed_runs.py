"""Runs whose process was killed: they would stay *started* for good, and automation would wait for them for good.

Dagster's default launcher has no health check. Every run says which process works on it (:mod:`assets.processes`); a
sensor looks every half minute whether those of this host still live, and marks the runs of those that do not as failed.
That is no failure of a step, so ``run_retries`` of ``dagster.yaml`` launches them anew, and they go on where they
stopped. Runs of other hosts are left alone, and runs that no asset has begun to work on, too: ``run_monitoring`` closes
those that do not start.

A retry needs the code server, to be made and to be started. While that is away (restarted, or killed, and its runs with
it), Dagster may give the retry up for good: ``Failed to retry run`` in the log of the run. The same sensor, which runs
when the code server is back, reports such a failure once more; then Dagster retries it.
"""

from datetime import UTC, datetime, timedelta

import dagster as dg

from assets.processes import PROCESS_TAG, Process

MESSAGE = (
    "the process {pid} of {host} that worked on this run is gone: it was killed, or the machine was restarted; what "
    "was written is kept, and a new run goes on where it stopped"
)

TRIED_AGAIN = "its retry could not be started while the code server was away; now it is tried again"
_GIVEN_UP = "Failed to retry run"
"""What Dagster writes into the log of such a run."""
_OUTAGE = timedelta(days=7)
"""Retries that were given up longer ago are no longer anyone's concern."""


def close_killed_runs_of(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs as failed whose process on this host is gone.

    Returns:
        Their ids.
    """
    closed = []
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        process = Process.of_tag(run.tags.get(PROCESS_TAG, ""))
        if process is None or not process.is_here or process.lives:
            continue
        # It may have ended well since it was listed; now that it is gone, its status stays.
        now = instance.get_run_by_id(run.run_id)
        if now is not None and now.status == dg.DagsterRunStatus.STARTED:
            instance.report_run_failed(now, MESSAGE.format(pid=process.pid, host=process.host))
            closed.append(run.run_id)
    return closed


def retry_given_up_of(instance: dg.DagsterInstance) -> list[str]:
    """Report failures once more whose retry Dagster gave up; it looks anew whether and how to retry them.

    Returns:
        Ids of these runs.
    """
    failed = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.FAILURE],
        tags={"dagster/will_retry": "false"},
        updated_after=datetime.now(UTC) - _OUTAGE,
    )
    given_up = []
    for run in instance.get_runs(failed):
        if run.tags.get("dagster/failure_reason") == "STEP_FAILURE":  # never retried
            continue
        if _count(instance, run, dg.DagsterEventType.ENGINE_EVENT, _GIVEN_UP) > _count(
            instance, run, dg.DagsterEventType.RUN_FAILURE, TRIED_AGAIN
        ):
            instance.report_run_failed(run, TRIED_AGAIN)
            given_up.append(run.run_id)
    return given_up


def _count(instance: dg.DagsterInstance, run: dg.DagsterRun, kind: dg.DagsterEventType, message: str) -> int:
    records = instance.get_records_for_run(run.run_id, of_type=kind).records
    return sum(record.event_log_entry.message == message for record in records)


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Marks runs as failed whose process on this host was killed; `run_retries` then launches them anew. Retries "
        "that were given up while the code server was away are tried again."
    ),
)
def close_killed_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Look for them every half minute."""
    closed, retried = close_killed_runs_of(context.instance), retry_given_up_of(context.instance)
    if closed:
        context.log.warning(f"closed runs whose process was killed: {', '.join(closed)}")
    if retried:
        context.log.warning(f"runs whose retry was given up are tried again: {', '.join(retried)}")
    return dg.SkipReason(f"closed {len(closed)} runs whose process was killed, tried {len(retried)} retries again")


def killed_runs_definitions() -> dg.Definitions:
    """The sensor."""
    return dg.Definitions(sensors=[close_killed_runs])
