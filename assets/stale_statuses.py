"""Which partitions are out of date, and why: Dagster's own resolver, which the UI asks too.

It is private to Dagster (``dagster._core``), as nothing public answers this for partitions. No other file of the
project imports anything private, the version of Dagster is pinned closely, and a test fails when the resolver moves.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
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

OPTIONAL = "sae_concord/optional"
"""Metadata of an asset: the dependencies that it is made without where they are not there."""
_SHOWN = 3
"""Partitions that are named in a cause; of more, their number."""


class Status(StrEnum):
    """Of one partition."""

    FRESH = "fresh"
    MISSING = "missing"
    """Never materialized."""
    STALE = "stale"
    """Made from something that has changed since: upstream content, settings, or code."""
    BEHIND = "behind"
    """Made from what is there now; but something upstream of it, and not optional, is missing or stale."""


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
        self.instance: dg.DagsterInstance = view.instance
        self._resolver = CachingStaleStatusResolver(view.instance, self.graph, view)
        self._out_of_date: dict[tuple[dg.AssetKey, str | None], bool] = {}
        self._waiting: dict[tuple[dg.AssetKey, str | None], bool] = {}

    def is_out_of_date(self, key: dg.AssetKey, partition: str | None) -> bool:
        """Whether a partition is missing or stale."""
        if (key, partition) not in self._out_of_date:
            status = self._resolver.get_status(key, partition)
            self._out_of_date[key, partition] = status is not StaleStatus.FRESH or bool(
                self._late_inputs(key, partition)
            )
        return self._out_of_date[key, partition]

    def is_behind(self, key: dg.AssetKey, partition: str | None, ignoring: Iterable[dg.AssetKey] = ()) -> bool:
        """Whether anything upstream of a partition, near or far, is missing or stale.

        Args:
            ignoring: dependencies of the partition itself whose side is not looked at.
        """
        return any(
            self.is_out_of_date(*parent) or self._waits(*parent)
            for parent in self.parents(key, partition)
            if parent[0] not in ignoring
        )

    def _waits(self, key: dg.AssetKey, partition: str | None) -> bool:
        if (key, partition) not in self._waiting:
            self._waiting[key, partition] = self.is_behind(key, partition)
        return self._waiting[key, partition]

    def _late_inputs(self, key: dg.AssetKey, partition: str | None) -> list[dg.AssetKey]:
        """Dependencies that had never been materialized when the partition was made without them, and now are.

        Dagster's resolver does not see those where they are partitioned: it looks for what came after the event that
        was read, and there was none.
        """
        graph = self.graph
        if graph.get(key).is_external or not any(
            graph.get(parent).is_partitioned for parent in graph.get(key).parent_keys
        ):
            return []
        made = self.instance.get_latest_data_version_record(key, is_source=False, partition_key=partition)
        tags = (made.asset_materialization.tags if made and made.asset_materialization else None) or {}
        return sorted(
            {
                parent
                for parent, its_partition in self.parents(key, partition)
                if its_partition is not None
                and tags.get(f"dagster/input_event_pointer/{parent.to_user_string()}") == "NULL"
                and self.instance.get_latest_data_version_record(parent, is_source=False, partition_key=its_partition)
            }
        )

    def of(self, keys: Iterable[dg.AssetKey]) -> list[PartitionStatus]:
        """The statuses of all partitions of these assets, upstream first."""
        wanted = set(keys)
        found: list[PartitionStatus] = []
        roots: dict[tuple[dg.AssetKey, str | None], tuple[str, ...]] = {}
        for key in self.graph.toposorted_asset_keys:
            if self.graph.get(key).is_external:
                continue
            optional = self._optional(key)
            for partition in self._partitions(key):
                needed = [parent for parent in self.parents(key, partition) if parent[0] not in optional]
                above = dict.fromkeys(root for parent in needed for root in roots.get(parent, ()))
                one = self._status(key, partition, tuple(above))
                if one.status is not Status.FRESH:
                    roots[key, partition] = tuple(above) if one.status is Status.BEHIND else (str(one),)
                if key in wanted:
                    found.append(one)
        return found

    def _optional(self, key: dg.AssetKey) -> set[dg.AssetKey]:
        """Dependencies that an asset says it is made without where they are not there."""
        said: Any = self.graph.get(key).metadata.get(OPTIONAL, [])
        return {dg.AssetKey.from_user_string(name) for name in getattr(said, "value", said)}

    def _partitions(self, key: dg.AssetKey) -> list[str | None]:
        definition = self.graph.get(key).partitions_def
        return [None] if definition is None else list(definition.get_partition_keys())

    def _status(self, key: dg.AssetKey, partition: str | None, roots: tuple[str, ...]) -> PartitionStatus:
        """Of one partition, given the nearest partitions above it that are missing or stale."""
        match self._resolver.get_status(key, partition):
            case StaleStatus.MISSING:
                return PartitionStatus(key, partition, Status.MISSING, ("never materialized",))
            case StaleStatus.STALE:
                causes = tuple(dict.fromkeys(map(_sentence, self._resolver.get_stale_causes(key, partition))))
                return PartitionStatus(key, partition, Status.STALE, causes)
        if late := self._late_inputs(key, partition):
            causes = tuple(f"{parent.to_user_string()}: first materialized since then" for parent in late)
            return PartitionStatus(key, partition, Status.STALE, causes)
        if roots:
            return PartitionStatus(key, partition, Status.BEHIND, (f"waits for {some_of(roots)}",))
        return PartitionStatus(key, partition, Status.FRESH, ())

    def parents(self, key: dg.AssetKey, partition: str | None) -> list[tuple[dg.AssetKey, str | None]]:
        """The partitions that a partition depends on; None for the only one of an asset without partitions."""
        found: list[tuple[dg.AssetKey, str | None]] = []
        for parent in sorted(self.graph.get(key).parent_keys):
            if self.graph.get(parent).is_partitioned:
                mapped = self.graph.get_parent_partition_keys_for_child(partition, parent, key)
                found += [(parent, each) for each in mapped.partitions_subset.get_partition_keys()]
            else:
                found.append((parent, None))
        return found


@lru_cache(maxsize=4)
def statuses_of(view: Any) -> Statuses:
    """The statuses as one tick sees them: all conditions of a tick share a view, and so what was asked already.

    Dagster reads the latest events of all assets when a tick begins, so these may be some seconds old.
    """
    return Statuses(view)


def newest_statuses(view: Any) -> Statuses:
    """The statuses of the same assets as they are now, whatever the view has read before."""
    return _statuses(view.instance, view.asset_graph)


def statuses_now(definitions: dg.Definitions, instance: dg.DagsterInstance) -> Statuses:
    """The statuses as the instance has them now."""
    return _statuses(instance, definitions.resolve_asset_graph())


def _statuses(instance: dg.DagsterInstance, graph: Any) -> Statuses:
    last = instance.event_log_storage.get_maximum_record_id()
    now = TemporalContext(effective_dt=datetime.now(UTC), last_event_id=last)
    return Statuses(AssetGraphView(temporal_context=now, instance=instance, asset_graph=graph))


def some_of(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _sentence(cause: Any) -> str:
    """A cause in words: what changed, and where."""
    if cause.dependency is None:
        return "its settings or the version of its code changed" if "code version" in cause.reason else cause.reason
    where = cause.dependency.asset_key.to_user_string()
    if cause.dependency.partition_key:
        where += f" [{cause.dependency.partition_key}]"
    return f"{where}: {cause.reason.removeprefix('has a ')}"
