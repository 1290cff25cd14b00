"""Which partitions of a study are out of date, as a check of its last asset: the graph of the UI does not show it.

It runs with every materialization of that asset, by itself from the asset's *Checks* tab, and in the job ``status`` for
all studies. It warns; nothing waits for it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import dagster as dg

from assets.keys import StudyKeys, SyntheticKeys, activations_key
from assets.stale_statuses import PartitionStatus, Status, Statuses, statuses_now
from sae_core.config import StudyConfig
from sae_core.synthetic_config import SyntheticStudyConfig

CHECK = "up_to_date"
JOB = "status"
_ROWS = 100
_CAUSES = 3


def status_definitions(
    studies: Iterable[StudyConfig], synthetic: Iterable[SyntheticStudyConfig], assets: dg.Definitions
) -> dg.Definitions:
    """The check of every study, the job that runs all of them, and its schedule, which is off until switched on.

    Args:
        assets: of all models and studies. A run has no other way to all of them: its own job holds what it makes, and
            not every run knows the repository it is from.
    """
    checks = [_check(StudyKeys(study.name).report, study_keys(study), assets) for study in studies]
    checks += [_check(SyntheticKeys(study.name).reproduction, synthetic_keys(study), assets) for study in synthetic]
    if not checks:
        return dg.Definitions()
    job = dg.define_asset_job(
        JOB,
        selection=dg.AssetSelection.checks(*checks),
        description="Look which partitions of every study are missing, stale or behind; makes nothing.",
    )
    schedule = dg.ScheduleDefinition(
        job=job,
        cron_schedule="0 * * * *",
        description="Every hour; off until it is switched on.",
        default_status=dg.DefaultScheduleStatus.STOPPED,
    )
    return dg.Definitions(asset_checks=checks, jobs=[job], schedules=[schedule])


def study_keys(study: StudyConfig) -> list[dg.AssetKey]:
    """The activations that a study reads, and its own assets."""
    keys = StudyKeys(study.name)
    own = [keys.sae, keys.consistency, keys.contexts, keys.explanations, keys.scores, keys.similarity]
    return [activations_key(study.model, study.hook), *own, keys.model_versions, keys.report]


def synthetic_keys(study: SyntheticStudyConfig) -> list[dg.AssetKey]:
    """The experiments of a synthetic study, and its page."""
    keys = SyntheticKeys(study.name)
    return [*(keys.experiment(experiment.name) for experiment in study.experiments), keys.reproduction]


def out_of_date(statuses: Statuses, keys: Iterable[dg.AssetKey]) -> tuple[list[PartitionStatus], Counter[Status]]:
    """What is not fresh, upstream first, and how many partitions have which status."""
    found = statuses.of(keys)
    return [each for each in found if each.status is not Status.FRESH], Counter(each.status for each in found)


def status_table(late: Sequence[PartitionStatus]) -> str:
    """Partitions that are out of date, their status and why, in Markdown; at most 100 rows, and how many more."""
    if not late:
        return "Everything is as it would be made now."
    lines = ["| partition | status | why |", "|-|-|-|"]
    lines += [f"| {_cell(str(each))} | {each.status} | {_cell(causes_text(each))} |" for each in late[:_ROWS]]
    if len(late) > _ROWS:
        lines += ["", f"{len(late) - _ROWS} more; `concord status --all` lists all."]
    return "\n".join(lines)


def causes_text(status: PartitionStatus) -> str:
    """Why, in one line: at most three causes, and how many more."""
    shown = "; ".join(status.causes[:_CAUSES])
    return shown + (f"; {len(status.causes) - _CAUSES} more" if len(status.causes) > _CAUSES else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")  # of the keys of partitions


def _check(asset: dg.AssetKey, keys: Sequence[dg.AssetKey], assets: dg.Definitions) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=asset,
        name=CHECK,
        description="Every partition of the study is as it would be made now: nothing missing, nothing made from what "
        "has changed since, nothing that waits for such.",
    )
    def up_to_date(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        late, counts = out_of_date(statuses_now(assets, context.instance), keys)
        return dg.AssetCheckResult(
            passed=not late,
            severity=dg.AssetCheckSeverity.WARN,
            description=None if not late else f"{len(late)} of {counts.total()} partitions are out of date",
            metadata={
                **{status.value: counts[status] for status in Status},
                "partitions": dg.MetadataValue.md(status_table(late)),
            },
        )

    return up_to_date
