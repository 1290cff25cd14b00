"""The job ``verify``: does the store still hold what Dagster says was made? On demand, or by its schedule."""

import dagster as dg

from assets.checks.in_store import NAME

JOB = "verify"


def verify_definitions(definitions: dg.Definitions) -> dg.Definitions:
    """A job that runs the check ``in_store`` of every asset, and a nightly schedule for it, which is off at first.

    Args:
        definitions: those with the assets.
    """
    checks = [key for key in definitions.resolve_asset_graph().asset_check_keys if key.name == NAME]
    if not checks:
        return dg.Definitions()
    job = dg.define_asset_job(
        JOB,
        selection=dg.AssetSelection.checks(*checks),
        description="Look whether the store holds the artifacts of every partition, whole; see the check `in_store` of "
        "each asset. With `hash: true` for a check it reads every byte.",
    )
    return dg.Definitions(jobs=[job], schedules=[dg.ScheduleDefinition(job=job, cron_schedule="0 3 * * *")])
