"""Run a chain step by step, in this process: the same assets, partitions and history as in the UI."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from assets.processes import PROCESS_TAG, this_process
from pipelines.chains import Chain, Step
from pipelines.failures import TERMINATED, failure_message
from pipelines.killed_runs import close_killed_runs_of

# Dagster's own log lines would bury the progress; warnings and errors come through.
_QUIET = {"loggers": {"console": {"config": {"log_level": "WARNING"}}}}
_ENDS_OF_RUNS = (dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_CANCELED)


@dataclass(frozen=True)
class Outcome:
    """What came of a study."""

    report: Path
    """Folder of the artifact of the last step: the report, or the reproduction."""
    page: Path
    """What a user opens of it."""
    table: str
    """What the terminal shows of it."""
    n_steps: int
    n_cache_hits: int
    seconds: float


class StudyFailed(RuntimeError):
    """A step of the chain failed; what was made before it is kept."""


def materialize_chain(
    definitions: dg.Definitions, instance: dg.DagsterInstance, chain: Chain, echo: Callable[[str], None]
) -> Outcome:
    """Materialize every asset of a chain into a Dagster instance.

    Raises:
        StudyFailed: if a step failed.
    """
    start = time.monotonic()
    hits = materialize_steps(definitions, instance, chain, echo)
    folder = _artifact_folder(instance, chain.steps[-1].key)
    return Outcome(
        report=folder,
        page=folder / chain.page,
        table=chain.table(folder),
        n_steps=len(chain.steps),
        n_cache_hits=hits,
        seconds=time.monotonic() - start,
    )


def materialize_steps(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    chain: Chain,
    echo: Callable[[str], None],
    tags: Mapping[str, str] | None = None,
    terminated: Callable[[], bool] = lambda: False,
) -> int:
    """Materialize the steps of a chain, each as a run of its own.

    Args:
        tags: of these runs.
        terminated: asked before every step whether to stop. Dagster drops an interrupt that comes while it winds a
            run up, and the chain would go on.

    Returns:
        How many were cache hits.

    Raises:
        StudyFailed: if a step failed, or the chain was terminated before it.
    """
    hits, tags = 0, dict(tags or {})
    close_killed_runs_of(instance)
    if chain.observe is not None:
        definitions.resolve_job_def(chain.observe).execute_in_process(instance=instance, run_config=_QUIET, tags=tags)
    job = definitions.resolve_implicit_global_asset_job_def()
    for number, step in enumerate(chain.steps, 1):
        if terminated():
            raise StudyFailed(f"{step.title} was not begun: {TERMINATED}")
        begin = time.monotonic()
        hit = _materialize(job, instance, step, tags)
        hits += hit
        took = "cached" if hit else f"{time.monotonic() - begin:.0f} s"
        echo(f"[{number:2d}/{len(chain.steps)}] {step.title}: {took}")
    return hits


def _materialize(job: dg.JobDefinition, instance: dg.DagsterInstance, step: Step, tags: Mapping[str, str]) -> bool:
    result = job.execute_in_process(
        instance=instance,
        asset_selection=[step.key],
        partition_key=step.partition,
        run_config=_QUIET,
        raise_on_error=False,
        tags={PROCESS_TAG: this_process().tag, **tags},
    )
    if not result.success:
        raise StudyFailed(f"{step.title} failed: {failure_reason(result)}")
    (made,) = result.asset_materializations_for_node(step.key.to_python_identifier())
    return bool(made.metadata["cache_hit"].value)


def failure_reason(result: dg.ExecuteInProcessResult) -> str:
    """Why the first step that failed did: the message of what the asset raised.

    A run that is terminated just when no step of it works has no step that failed: then it says why itself.
    """
    of_steps = [event for event in result.all_events if event.is_step_failure]
    of_run = [event for event in result.all_events if event.event_type in _ENDS_OF_RUNS]
    messages = (failure_message(event) for event in (*of_steps, *of_run))
    return next(filter(None, messages), "see the run in the UI (make ui)")


def _artifact_folder(instance: dg.DagsterInstance, key: dg.AssetKey) -> Path:
    event = instance.get_latest_materialization_event(key)
    assert event is not None
    assert event.asset_materialization is not None
    return Path(str(event.asset_materialization.metadata["path"].value))
