"""Run a study from the shell (``concord run``)."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg

from assets.recording import default_store_root
from pipelines.chains import chain_of
from pipelines.docs_pages import publish, require_folder
from pipelines.project import dagster_home, project_files
from pipelines.runner import Outcome, materialize_chain
from sae_core.store import ArtifactStore


def run_study(name: str, echo: Callable[[str], None], docs: Path | None = None) -> Outcome:
    """Materialize every asset of a study, in order; what the store holds already is a cache hit.

    Args:
        docs: folder that gets a copy of the page.

    Raises:
        KeyError: if there is no such study; the message lists those there are.
        ValueError: if its file is broken, or its page is not one for a folder of documentation.
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
