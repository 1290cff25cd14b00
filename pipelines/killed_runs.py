"""Runs whose process was killed: they would stay *started* for good, and automation would wait for them for good.

Dagster's default launcher has no health check. Every run says which process works on it (:mod:`assets.processes`); a
sensor looks every half minute whether those of this host still live, and marks the runs of those that do not as failed.
That is no failure of a step, so ``run_retries`` of ``dagster.yaml`` launches them anew, and they go on where they
stopped. Runs of other hosts are left alone, and runs that no asset has begun to work on, too: ``run_monitoring`` closes
those that do not start.
"""

import dagster as dg

from assets.processes import PROCESS_TAG, Process

MESSAGE = (
    "the process {pid} of {host} that worked on this run is gone: it was killed, or the machine was restarted; what "
    "was written is kept, and a new run goes on where it stopped"
)


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


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Marks runs as failed whose process on this host was killed; `run_retries` then launches them anew.",
)
def close_killed_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Look for them every half minute."""
    closed = close_killed_runs_of(context.instance)
    if closed:
        context.log.warning(f"closed runs whose process was killed: {', '.join(closed)}")
    return dg.SkipReason(f"closed {len(closed)} runs whose process was killed")


def killed_runs_definitions() -> dg.Definitions:
    """The sensor."""
    return dg.Definitions(sensors=[close_killed_runs])
