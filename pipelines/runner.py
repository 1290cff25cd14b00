"""Run a study from the shell: the same assets, partitions and history as in the UI, in this process."""

import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import psutil

from assets.keys import StudyKeys, activations_key, observe_job_name
from assets.partitions import run_key
from assets.recording import default_store_root
from pipelines.project import dagster_home, study_files
from sae_core.config import ModelConfig, StudyConfig
from sae_core.preflight import preflight_study
from sae_core.store import ArtifactStore

# Dagster's own log lines would bury the progress; warnings and errors come through.
_PROCESS_TAG = "sae_concord/process"
_QUIET = {"loggers": {"console": {"config": {"log_level": "WARNING"}}}}


@dataclass(frozen=True)
class Step:
    """One materialization: an asset, and a partition of it where it has any."""

    title: str
    key: dg.AssetKey
    partition: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a study."""

    report: Path
    """Folder of the report artifact."""
    n_steps: int
    n_cache_hits: int
    seconds: float


class StudyFailed(RuntimeError):
    """A step of the chain failed; what was made before it is kept."""


def steps(study: StudyConfig, model: ModelConfig) -> Iterator[Step]:
    """The chain of a study in an order in which everything upstream comes first."""
    keys, variants = StudyKeys(study.name), [variant.key for variant in study.variants]
    runs = [(variant, seed) for variant in variants for seed in study.seeds]
    yield Step(f"activations of {model.name} at {study.hook}", activations_key(model.name, study.hook))
    for variant, seed in runs:
        yield Step(f"SAE {variant}, seed {seed}", keys.sae, run_key(variant, seed))
    for variant in variants:
        yield Step(f"consistency of {variant}", keys.consistency, variant)
    for variant, seed in runs:
        yield Step(f"explanations of {variant}, seed {seed}", keys.explanations, run_key(variant, seed))
    for variant in variants:
        yield Step(f"explanation similarity of {variant}", keys.similarity, variant)
    yield Step("report", keys.report)


def run_study(name: str, echo: Callable[[str], None]) -> Outcome:
    """Materialize every asset of a study, in order; what the store holds already is a cache hit.

    Raises:
        KeyError: if there is no such study; the message lists those there are.
        StudyFailed: if a step failed.
    """
    files = study_files()
    if name not in files:
        raise KeyError(f"there is no study {name!r}; pipelines/defs/studies defines {', '.join(sorted(files))}")
    study, model = files[name]
    preflight_study(study, model, ArtifactStore(default_store_root()))
    dagster_home()
    from pipelines.definitions import defs

    with dg.DagsterInstance.get() as instance:
        return materialize_chain(defs(), instance, study, model, echo)


def materialize_chain(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    study: StudyConfig,
    model: ModelConfig,
    echo: Callable[[str], None],
) -> Outcome:
    """Materialize every asset of a study into a Dagster instance.

    Raises:
        StudyFailed: if a step failed.
    """
    start, hits, chain = time.monotonic(), 0, list(steps(study, model))
    _close_killed_runs(instance)
    _observe(definitions, instance, model)
    job = definitions.resolve_implicit_global_asset_job_def()
    for number, step in enumerate(chain, 1):
        begin = time.monotonic()
        hit = _materialize(job, instance, step)
        hits += hit
        took = "cached" if hit else f"{time.monotonic() - begin:.0f} s"
        echo(f"[{number:2d}/{len(chain)}] {step.title}: {took}")
    return Outcome(_report_folder(instance, study), len(chain), hits, time.monotonic() - start)


def _process(pid: int) -> str:
    return f"{platform.node()}:{pid}"


def _close_killed_runs(instance: dg.DagsterInstance) -> None:
    """Mark runs as failed whose process on this machine is gone: nobody else would, and the UI would show them
    as running for good.
    """
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        host, _, pid = run.tags.get(_PROCESS_TAG, "").rpartition(":")
        if host == platform.node() and not psutil.pid_exists(int(pid)):
            instance.report_run_failed(run, "its process was killed; `concord run` goes on where it stopped")


def _observe(definitions: dg.Definitions, instance: dg.DagsterInstance, model: ModelConfig) -> None:
    job = definitions.resolve_job_def(observe_job_name(model.name))
    job.execute_in_process(instance=instance, run_config=_QUIET)


def _materialize(job: dg.JobDefinition, instance: dg.DagsterInstance, step: Step) -> bool:
    result = job.execute_in_process(
        instance=instance,
        asset_selection=[step.key],
        partition_key=step.partition,
        run_config=_QUIET,
        raise_on_error=False,
        tags={_PROCESS_TAG: _process(os.getpid())},
    )
    if not result.success:
        raise StudyFailed(f"{step.title} failed: {_reason(result)}")
    (made,) = result.asset_materializations_for_node(step.key.to_python_identifier())
    return bool(made.metadata["cache_hit"].value)


def _reason(result: dg.ExecuteInProcessResult) -> str:
    for event in result.all_events:
        if event.is_step_failure and event.step_failure_data.error is not None:
            error = event.step_failure_data.error
            while error.cause is not None:  # Dagster wraps what the asset raised
                error = error.cause
            return error.message.strip()
    return "see the run in the UI (make ui)"


def _report_folder(instance: dg.DagsterInstance, study: StudyConfig) -> Path:
    event = instance.get_latest_materialization_event(StudyKeys(study.name).report)
    assert event is not None
    assert event.asset_materialization is not None
    return Path(str(event.asset_materialization.metadata["path"].value))
