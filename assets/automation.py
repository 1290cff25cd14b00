"""When an asset is made anew without anybody asking: conditions that Dagster's daemon evaluates every few seconds.

They are level-triggered: they look at how things are, not at what happened since the last look. An update that lands
while what depends on it is being made is seen at the next look, where Dagster's stock conditions lose it at a fan-in.

In words: a partition is requested that is out of date, unless it or anything above it is being made, is itself out of
date, failed with what it would be made of now, or did not pass a blocking check.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import dagster as dg

from assets.code_versions import STEP_TAG
from assets.stale_statuses import Statuses, newest_statuses, statuses_of
from sae_core.config import Automation

_DEPTH = 3
"""Dependencies that lie between an asset and whatever is above it, at most (activations, SAEs, contexts or consistency,
similarity, reproduction): nothing is longer, as every stage also depends directly on the earlier ones it reads."""


def automation_condition(
    policy: Automation, reports: Sequence[dg.AssetKey], optional: Sequence[dg.AssetKey] = ()
) -> dg.AutomationCondition | None:
    """The condition of an asset under a policy; None where nothing is made without being asked for.

    Args:
        reports: what must have been made once before ``when_stale`` begins: the report of the study, or of one of the
            studies.
        optional: dependencies that need not be there and need not be up to date.
    """
    if policy == "manual":
        return None
    # A run that ends during a look would be requested once more if what is out of date were read before what is being
    # made. Dagster reads some of it when a look begins; so what is left at the end is asked for once more.
    due: Any = (
        ~dg.AutomationCondition.in_progress()
        & ~_any_ancestor(dg.AutomationCondition.in_progress(), _DEPTH).with_label("any_ancestor_in_progress")
        & ~_any_dependency(dg.AutomationCondition.missing(), optional).with_label("any_dependency_missing")
        & ~UpstreamOutOfDate(optional)
        & OutOfDate()
        & ~FailedOnTheseInputs()
        & ~UpstreamCheckFailed()
        & StillOutOfDate()
    )
    if policy == "when_stale":
        due = Begun(reports) & due
    condition: dg.AutomationCondition = due.with_label(policy)
    return condition


def strongest(policies: Sequence[Automation]) -> Automation:
    """The policy of what several studies share: the one that makes the most; ``manual`` where there is none."""
    order: list[Automation] = ["manual", "when_stale", "eager"]
    return max(policies, key=order.index, default="manual")


def first_look() -> dg.AutomationCondition:
    """The condition of a source that what waits for it may begin: looked at once; from then on, its schedule does."""
    condition: dg.AutomationCondition = (
        dg.AutomationCondition.newly_missing() | dg.AutomationCondition.initial_evaluation()
    ) & dg.AutomationCondition.missing()
    return condition


def _any_ancestor(condition: dg.AutomationCondition, depth: int) -> Any:
    found = dg.AutomationCondition.any_deps_match(condition)
    for _ in range(depth - 1):
        found = dg.AutomationCondition.any_deps_match(condition | found)
    return found


def _any_dependency(condition: dg.AutomationCondition, but: Sequence[dg.AssetKey]) -> Any:
    found = dg.AutomationCondition.any_deps_match(condition)
    return found.ignore(dg.AssetSelection.assets(*but)) if but else found


class _EachPartition(dg.AutomationCondition):
    """A condition that is asked for one partition after the other."""

    def statuses(self, view: Any) -> Statuses:
        """What it looks at: what the tick has read, which is shared by its conditions."""
        return statuses_of(view)

    @abstractmethod
    def holds(self, statuses: Statuses, key: dg.AssetKey, partition: str | None) -> bool:
        """Whether it is true of this partition."""

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        """Of the candidates that are left, those of which it is true."""
        view = context.asset_graph_view
        statuses = self.statuses(view)
        found = {
            candidate
            for candidate in context.candidate_subset.expensively_compute_asset_partitions()
            if self.holds(statuses, context.key, candidate.partition_key)
        }
        return dg.AutomationResult(context, view.get_asset_subset_from_asset_partitions(context.key, found))


class OutOfDate(_EachPartition):
    """Never made, or made of something else than what is there now."""

    @property
    def name(self) -> str:
        """As the UI shows it."""
        return "out_of_date"

    @property
    def description(self) -> str:
        """As the UI shows it."""
        return "never made, or content upstream, settings or code changed since"

    def holds(self, statuses: Statuses, key: dg.AssetKey, partition: str | None) -> bool:
        """Whether a partition is missing or stale."""
        return statuses.is_out_of_date(key, partition)


class StillOutOfDate(OutOfDate):
    """The same, read at this very moment."""

    @property
    def name(self) -> str:
        """As the UI shows it."""
        return "still_out_of_date"

    def statuses(self, view: Any) -> Statuses:
        """As they are now."""
        return newest_statuses(view)


class UpstreamOutOfDate(_EachPartition):
    """Something above it, near or far, is out of date: to make it now would be to make it twice."""

    def __init__(self, optional: Sequence[dg.AssetKey] = ()):
        self.optional = frozenset(optional)

    @property
    def name(self) -> str:
        """As the UI shows it."""
        return "upstream_out_of_date"

    @property
    def description(self) -> str:
        """As the UI shows it."""
        return "something it is made of, directly or not, is to be made first"

    def holds(self, statuses: Statuses, key: dg.AssetKey, partition: str | None) -> bool:
        """Whether anything above a partition is missing or stale."""
        return statuses.is_behind(key, partition, self.optional)


class FailedOnTheseInputs(_EachPartition):
    """Its last run failed or was terminated, and code, settings and inputs are as they were then.

    Dagster's ``execution_failed`` holds for good; this one ends when there is a reason to try again.
    """

    @property
    def name(self) -> str:
        """As the UI shows it."""
        return "failed_on_these_inputs"

    @property
    def description(self) -> str:
        """As the UI shows it."""
        return "the last run failed or was terminated, and nothing that it was made of changed since"

    def holds(self, statuses: Statuses, key: dg.AssetKey, partition: str | None) -> bool:
        """Whether another run would only fail again."""
        instance = statuses.instance
        planned = instance.get_latest_planned_materialization_info(key, partition)
        run = planned and instance.get_run_by_id(planned.run_id)
        if not planned or not run or run.status not in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED):
            return False
        made = instance.get_latest_data_version_record(key, is_source=False, partition_key=partition)
        if made is not None and made.storage_id > planned.storage_id:
            return False  # the run failed later, at something else
        if _code_version_of(instance, run, key) != statuses.graph.get(key).code_version:
            return False
        return not any(
            _changed_since(statuses, planned.storage_id, *parent) for parent in statuses.parents(key, partition)
        )


class UpstreamCheckFailed(_EachPartition):
    """A dependency did not pass a blocking check when it was last made.

    Dagster's ``all_deps_blocking_checks_passed`` looks at the last check of an asset, of whichever partition: one bad
    seed would hold up all variants, and the next good one hide it.
    """

    @property
    def name(self) -> str:
        """As the UI shows it."""
        return "upstream_check_failed"

    @property
    def description(self) -> str:
        """As the UI shows it."""
        return "something it is made of did not pass a blocking check"

    def holds(self, statuses: Statuses, key: dg.AssetKey, partition: str | None) -> bool:
        """Whether a partition it is made of did not pass."""
        return any(_failed_a_check(statuses, *parent) for parent in statuses.parents(key, partition))


class Begun(dg.AutomationCondition):
    """Any of some reports has been made: somebody wanted the study, and saw to it once."""

    def __init__(self, reports: Sequence[dg.AssetKey]):
        self.reports = tuple(reports)

    @property
    def name(self) -> str:
        """As the UI shows it."""
        return "begun"

    @property
    def description(self) -> str:
        """As the UI shows it."""
        return f"made once: {' or '.join(report.to_user_string() for report in self.reports)}"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        """All candidates or none."""
        instance = context.asset_graph_view.instance
        begun = any(instance.get_latest_materialization_event(report) is not None for report in self.reports)
        return dg.AutomationResult(context, context.candidate_subset if begun else context.get_empty_subset())


def _code_version_of(instance: dg.DagsterInstance, run: dg.DagsterRun, key: dg.AssetKey) -> str | None:
    """The code version of an asset in the plan of a run."""
    plan = (
        instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id) if run.execution_plan_snapshot_id else None
    )
    for step in plan.steps if plan else []:
        if any(output.properties and output.properties.asset_key == key for output in step.outputs):
            return (step.tags or {}).get(STEP_TAG)
    return None


def _changed_since(statuses: Statuses, storage_id: int, key: dg.AssetKey, partition: str | None) -> bool:
    """Whether a dependency has another content than it had at that event."""
    instance, is_source = statuses.instance, statuses.graph.get(key).is_external
    after = instance.get_latest_data_version_record(key, is_source, partition, after_cursor=storage_id)
    if after is None:
        return False
    before = instance.get_latest_data_version_record(key, is_source, partition, before_cursor=storage_id)
    return _content(after) != _content(before)


def _content(record: dg.EventLogRecord | None) -> str | None:
    event = record and (record.asset_materialization or record.asset_observation)
    return event.tags.get("dagster/data_version") if event and event.tags else None


def _failed_a_check(statuses: Statuses, key: dg.AssetKey, partition: str | None) -> bool:
    """Whether a blocking check of the run that made a partition did not pass."""
    if not any(statuses.graph.get(check).blocking for check in statuses.graph.get(key).check_keys):
        return False
    made = statuses.instance.get_latest_data_version_record(key, is_source=False, partition_key=partition)
    if made is None:
        return False
    events = statuses.instance.all_logs(made.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    results = [event.dagster_event.asset_check_evaluation_data for event in events if event.dagster_event]
    failed = [each for each in results if each.asset_key == key and each.blocking and not each.passed]
    return any(each.severity is dg.AssetCheckSeverity.ERROR for each in failed)
