"""``concord status``: what is out of date and why, what would be made by itself, and what the store has lost."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import dagster as dg

from assets.keys import sensor_name
from assets.recording import default_store_root, recorded_artifacts
from assets.stale_statuses import PartitionStatus, Status, Statuses, statuses_now
from assets.up_to_date import causes_text, study_keys, synthetic_keys
from pipelines.loading import ProjectFiles
from pipelines.project import dagster_home, project_files
from sae_core.config import Automation
from sae_core.store import ArtifactStore, StoreError


@dataclass(frozen=True)
class StudyStatus:
    """How one study stands."""

    name: str
    policy: Automation
    sensor: str | None
    """What would make it by itself, and whether that is on; None under the policy ``manual``."""
    partitions: list[PartitionStatus]
    """All of them, upstream first."""
    gone: list[str] = field(default_factory=list)
    """Partitions whose latest materialization leads to an artifact that the store does not have, and which."""

    @property
    def is_up_to_date(self) -> bool:
        """Whether nothing is out of date and nothing is gone."""
        return not self.gone and all(each.status is Status.FRESH for each in self.partitions)

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "study": self.name,
            "automation": self.policy,
            "sensor": self.sensor,
            "up_to_date": self.is_up_to_date,
            "partitions": [
                {
                    "asset": each.key.to_user_string(),
                    "partition": each.partition,
                    "status": each.status.value,
                    "causes": list(each.causes),
                }
                for each in self.partitions
            ],
            "gone_from_store": self.gone,
        }


def project_status(
    files: ProjectFiles, definitions: dg.Definitions, instance: dg.DagsterInstance, study: str | None = None
) -> list[StudyStatus]:
    """The status of every study, or of one.

    Args:
        definitions: of all of them.

    Raises:
        ValueError: if there is no such study; the message lists those there are.
    """
    known = sorted([*files.studies, *files.synthetic])
    if study is not None and study not in known:
        raise ValueError(f"there is no study {study!r}; there are {', '.join(known) or 'none'}")
    statuses, store = statuses_now(definitions, instance), ArtifactStore(default_store_root())
    return [_of_study(files, name, statuses, instance, store) for name in known if study in (None, name)]


def read_status(study: str | None) -> list[StudyStatus]:
    """The same, of this project and its history.

    Raises:
        ValueError: as ``project_status``.
    """
    from pipelines.definitions import defs

    dagster_home()
    with dg.DagsterInstance.get() as instance:
        return project_status(project_files(), defs(), instance, study)


def status_lines(studies: Iterable[StudyStatus], everything: bool = False) -> Iterator[str]:
    """What the terminal shows.

    Args:
        everything: also what is fresh, and of a study that was never made what it consists of.
    """
    for study in studies:
        if not everything and all(each.status is Status.MISSING for each in study.partitions):
            yield f"{study.name}: never made ({len(study.partitions)} missing)"
            yield f"  {_automation(study)}"
            continue
        counts = {status: sum(each.status is status for each in study.partitions) for status in Status}
        shown = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        yield f"{study.name}: {'up to date' if study.is_up_to_date else 'out of date'} ({shown})"
        for key, partitions in groupby(study.partitions, lambda each: each.key):
            yield from _of_asset(key, list(partitions), everything)
        for line in study.gone:
            yield f"  gone from the store: {line}"
        yield f"  {_automation(study)}"


def _of_asset(key: dg.AssetKey, partitions: list[PartitionStatus], everything: bool) -> Iterator[str]:
    """A line for each partition, or one for all of them where there is nothing to tell apart."""
    shown = [each for each in partitions if everything or each.status is not Status.FRESH]
    if not shown:
        return
    name = key.to_user_string()
    if len(shown) == len(partitions) and len({_state(each) for each in partitions}) == 1:
        yield f"  {name}: {f'all {len(shown)} ' if len(shown) > 1 else ''}{_state(shown[0])}"
        return
    yield f"  {name}"
    for each in shown:
        yield f"    {each.partition}: {_state(each)}"


def _state(status: PartitionStatus) -> str:
    return f"{status.status}{f' ({causes_text(status)})' if status.causes else ''}"


def _automation(study: StudyStatus) -> str:
    if study.sensor is None:
        return f"automation: manual; `concord run {study.name}` makes it"
    return f"automation: {study.policy}; {study.sensor}"


def _of_study(
    files: ProjectFiles, name: str, statuses: Statuses, instance: dg.DagsterInstance, store: ArtifactStore
) -> StudyStatus:
    if name in files.studies:
        study, model = files.studies[name]
        policy, keys, sensor = study.automation, study_keys(study), sensor_name(model.name)
    else:
        synthetic = files.synthetic[name]
        policy, keys, sensor = synthetic.automation, synthetic_keys(synthetic), sensor_name("synthetic_" + name)
    partitions = statuses.of(keys)
    gone = [line for each in partitions if each.status is not Status.MISSING for line in _gone(instance, store, each)]
    return StudyStatus(name, policy, None if policy == "manual" else _sensor(instance, sensor), partitions, gone)


def _gone(instance: dg.DagsterInstance, store: ArtifactStore, status: PartitionStatus) -> Iterator[str]:
    record = instance.get_latest_data_version_record(status.key, is_source=False, partition_key=status.partition)
    if record is None or record.asset_materialization is None:
        return
    for name, (url, content) in recorded_artifacts(record.asset_materialization).items():
        try:
            store.open(url, content)
        except StoreError as error:
            yield f"{status}: {name}: {error}"


def _sensor(instance: dg.DagsterInstance, name: str) -> str:
    """Whether a sensor is on, as far as the instance knows: it is on unless somebody switched it off."""
    states = [state for state in instance.all_instigator_state() if state.instigator_name == name]
    stopped = any(state.status.value == "STOPPED" for state in states)
    daemon = instance.get_daemon_statuses().get("SENSOR")
    if stopped:
        return f"sensor {name} is switched off (Automation in the UI)"
    runs = daemon is not None and daemon.healthy
    return f"sensor {name} is on{'' if runs else ', but no daemon is running (make ui)'}"


def status_json(studies: Iterable[StudyStatus]) -> str:
    """What ``--json`` prints."""
    return json.dumps([study.as_json() for study in studies], indent=1)
