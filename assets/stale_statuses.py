"""Which partitions are out of date, and why: Dagster's own resolver, which the UI asks too.

It is private to Dagster (``dagster._core``), as nothing public answers this for partitions. No other file of the
project imports anything private, the version of Dagster is pinned closely, and a test fails when the resolver moves.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import dagster as dg

try:
    from dagster._core.asset_graph_view.asset_graph_view import AssetGraphView
    from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
    from dagster._core.definitions.temporal_context import TemporalContext
except ImportError as error:  # pragma: no cover - only with a version of Dagster that is not allowed
    raise ImportError(
        f"dagster {dg.__version__} has moved what says which partitions are out of date ({error}); sae-concord is made "
        "for dagster>=1.13.27,<1.14: install that (`make` does), or adapt assets/stale_statuses.py"
    ) from error


class Status(StrEnum):
    """Of one partition."""

    FRESH = "fresh"
    MISSING = "missing"
    """Never materialized."""
    STALE = "stale"
    """Made from something that has changed since: upstream content, settings, or code."""
    BEHIND = "behind"
    """Made from what is there now; but something upstream of it is missing or stale."""


@dataclass(frozen=True)
class PartitionStatus:
    """What is to be said of one partition."""

    key: dg.AssetKey
    partition: str | None
    status: Status
    causes: tuple[str, ...]
    """Why, a sentence each; none where it is fresh."""

    def __str__(self) -> str:
        return self.key.to_user_string() + (f" [{self.partition}]" if self.partition else "")


class Statuses:
    """The statuses of a moment: what was asked once is remembered, so make a new one to look again.

    Args:
        view: an ``AssetGraphView``, as conditions have one (``context.asset_graph_view``).
    """

    def __init__(self, view: Any):
        self.graph = view.asset_graph
        self._resolver = CachingStaleStatusResolver(view.instance, self.graph, view)

    def is_out_of_date(self, key: dg.AssetKey, partition: str | None) -> bool:
        """Whether a partition is missing or stale."""
        return self._resolver.get_status(key, partition) is not StaleStatus.FRESH

    def of(self, keys: Iterable[dg.AssetKey]) -> list[PartitionStatus]:
        """The statuses of all partitions of these assets, upstream first."""
        wanted = set(keys)
        found: list[PartitionStatus] = []
        behind: dict[tuple[dg.AssetKey, str | None], str] = {}
        for key in self.graph.toposorted_asset_keys:
            if self.graph.get(key).is_external:
                continue
            for partition in self._partitions(key):
                one = self._status(key, partition, behind)
                if one.status is not Status.FRESH:
                    behind[key, partition] = str(one)
                if key in wanted:
                    found.append(one)
        return found

    def _partitions(self, key: dg.AssetKey) -> list[str | None]:
        definition = self.graph.get(key).partitions_def
        return [None] if definition is None else list(definition.get_partition_keys())

    def _status(
        self, key: dg.AssetKey, partition: str | None, behind: dict[tuple[dg.AssetKey, str | None], str]
    ) -> PartitionStatus:
        match self._resolver.get_status(key, partition):
            case StaleStatus.MISSING:
                return PartitionStatus(key, partition, Status.MISSING, ("never materialized",))
            case StaleStatus.STALE:
                causes = tuple(dict.fromkeys(map(_sentence, self._resolver.get_stale_causes(key, partition))))
                return PartitionStatus(key, partition, Status.STALE, causes)
        upstream = [behind[parent] for parent in self._parents(key, partition) if parent in behind]
        if upstream:
            return PartitionStatus(key, partition, Status.BEHIND, (f"waits for {', '.join(upstream)}",))
        return PartitionStatus(key, partition, Status.FRESH, ())

    def _parents(self, key: dg.AssetKey, partition: str | None) -> list[tuple[dg.AssetKey, str | None]]:
        found: list[tuple[dg.AssetKey, str | None]] = []
        for parent in sorted(self.graph.get(key).parent_keys):
            if self.graph.get(parent).is_partitioned:
                mapped = self.graph.get_parent_partition_keys_for_child(partition, parent, key)
                found += [(parent, each) for each in mapped.partitions_subset.get_partition_keys()]
            else:
                found.append((parent, None))
        return found


def statuses_now(definitions: dg.Definitions, instance: dg.DagsterInstance) -> Statuses:
    """The statuses as the instance has them now."""
    last = instance.event_log_storage.get_maximum_record_id()
    now = TemporalContext(effective_dt=datetime.now(UTC), last_event_id=last)
    graph = definitions.resolve_asset_graph()
    return Statuses(AssetGraphView(temporal_context=now, instance=instance, asset_graph=graph))


def _sentence(cause: Any) -> str:
    """A cause in words: what changed, and where."""
    if cause.dependency is None:
        return "its settings or the version of its code changed" if "code version" in cause.reason else cause.reason
    where = cause.dependency.asset_key.to_user_string()
    if cause.dependency.partition_key:
        where += f" [{cause.dependency.partition_key}]"
    return f"{where}: {cause.reason.removeprefix('has a ')}"
