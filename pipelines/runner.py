"""Run a study from the shell: the same assets, partitions and history as in the UI, in this process."""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import psutil

from assets.recording import default_store_root
from pipelines.chains import Chain, Step, chain_of
from pipelines.docs_pages import publish, require_folder
from pipelines.project import dagster_home, project_files
from sae_core.store import ArtifactStore

# Dagster's own log lines would bury the progress; warnings and errors come through.
_PROCESS_TAG = "sae_concord/process"
_QUIET = {"loggers": {"console": {"config": {"log_level": "WARNING"}}}}


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


def run_study(name: str, echo: Callable[[str], None], docs: Path | None = None) -> Outcome:
    """Materialize every asset of a study, in order; what the store holds already is a cache hit.

    Args:
        docs: folder that gets a copy of the page.

    Raises:
        KeyError: if there is no such study; the message lists those there are.
        ValueError: if the page of the study is not one for a folder of documentation.
        FileNotFoundError: if there is no such folder.
        StudyFailed: if a step failed.
    """
    chain = chain_of(project_files(), name)
    if docs is not None:
        if not chain.for_docs:
            raise ValueError(
                f"--docs is for synthetic studies, whose page is Markdown: {name} has a report of its own "
                f"({chain.page}); leave --docs out"
            )
        require_folder(docs)
    if chain.preflight is not None:
        chain.preflight(ArtifactStore(default_store_root()))
    dagster_home()
    from pipelines.definitions import defs

    with dg.DagsterInstance.get() as instance:
        outcome = materialize_chain(defs(), instance, chain, echo)
    if docs is not None:
        publish(outcome.page, docs)
    return outcome


def materialize_chain(
    definitions: dg.Definitions, instance: dg.DagsterInstance, chain: Chain, echo: Callable[[str], None]
) -> Outcome:
    """Materialize every asset of a chain into a Dagster instance.

    Raises:
        StudyFailed: if a step failed.
    """
    start, hits = time.monotonic(), 0
    _close_killed_runs(instance)
    if chain.observe is not None:
        definitions.resolve_job_def(chain.observe).execute_in_process(instance=instance, run_config=_QUIET)
    job = definitions.resolve_implicit_global_asset_job_def()
    for number, step in enumerate(chain.steps, 1):
        begin = time.monotonic()
        hit = _materialize(job, instance, step)
        hits += hit
        took = "cached" if hit else f"{time.monotonic() - begin:.0f} s"
        echo(f"[{number:2d}/{len(chain.steps)}] {step.title}: {took}")
    folder = _artifact_folder(instance, chain.steps[-1].key)
    return Outcome(
        report=folder,
        page=folder / chain.page,
        table=chain.table(folder),
        n_steps=len(chain.steps),
        n_cache_hits=hits,
        seconds=time.monotonic() - start,
    )


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


def _artifact_folder(instance: dg.DagsterInstance, key: dg.AssetKey) -> Path:
    event = instance.get_latest_materialization_event(key)
    assert event is not None
    assert event.asset_materialization is not None
    return Path(str(event.asset_materialization.metadata["path"].value))
