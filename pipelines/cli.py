"""The command line: ``concord``."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import click


@click.group(epilog="Example:  concord run quickstart")
@click.pass_context
def main(context: click.Context) -> None:
    """Are the features of a sparse autoencoder real, or an accident of the seed?"""
    # Before torch and numba start their thread pools: their waiting threads would fight for the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["SAE_CONCORD_TERMINAL"] = "1"
    context.call_on_close(lambda: os.environ.pop("SAE_CONCORD_TERMINAL", None))
    # Beta parts of Dagster that are in use, each covered by a test.
    warnings.filterwarnings("ignore", message=".*is currently in beta")


@main.command("list")
def list_studies() -> None:
    """The studies that the YAML files under pipelines/defs define; the broken files and what is wrong with them."""
    from pipelines.project import project_files

    files = project_files()
    for name, (study, model) in sorted(files.studies.items()):
        variants = ", ".join(variant.key for variant in study.variants)
        click.echo(f"{name}: {model.name} at {study.hook}; {variants}; {len(study.seeds)} seeds")
    for name, synthetic in sorted(files.synthetic.items()):
        experiments = ", ".join(experiment.name for experiment in synthetic.experiments)
        click.echo(f"{name}: synthetic; {experiments}; {len(synthetic.seeds)} seeds")
    for file in files.broken:
        click.echo(f"\n{file}", err=True)
    if files.broken:
        raise click.ClickException(f"{len(files.broken)} broken; the others can be run")


@main.command(
    epilog="""\b
Examples:
  concord run quickstart
  concord run pythia-160m
  concord run paper --docs docs
"""
)
@click.argument("study")
@click.option(
    "--docs",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Copy the page of a synthetic study and its figures into this folder.",
)
def run(study: str, docs: Path | None) -> None:
    """Materialize every asset of STUDY: activations, SAEs, consistency, explanations, report.

    A synthetic study has experiments instead, and a page that sets what was published beside what came out.

    What is in the store already is not made again. A run that was killed goes on where it stopped.
    """
    from transformers.utils.logging import disable_progress_bar

    from pipelines.runner import StudyFailed
    from pipelines.shell import run_study

    disable_progress_bar()  # of loading weights; the chain has its own
    try:
        outcome = run_study(study, lambda line: click.echo(line, err=True), docs)
    except (KeyError, ValueError, OSError, RuntimeError, StudyFailed) as error:
        raise click.ClickException(str(error.args[0] if isinstance(error, KeyError) else error)) from error
    click.echo()
    click.echo(outcome.table)
    made = outcome.n_steps - outcome.n_cache_hits
    click.echo(f"\n{made} made, {outcome.n_cache_hits} from the cache, {outcome.seconds:.0f} s")
    click.echo(f"Report: {outcome.page}")
    if docs is not None:
        click.echo(f"Copied: {docs / outcome.page.name}")
    click.echo("UI:     make ui, then open http://127.0.0.1:3000")


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=3000, show_default=True)
def ui(host: str, port: int) -> None:
    """The Dagster UI and its daemon, on the same store and history; once for each DAGSTER_HOME."""
    from pipelines.serving import AlreadyRuns, serve

    # Its runs write to their logs, not to a terminal.
    del os.environ["SAE_CONCORD_TERMINAL"]
    try:
        serve(host, port)
    except (AlreadyRuns, OSError) as error:
        raise click.ClickException(str(error)) from error


@main.command(
    epilog="""\b
Examples:
  concord compare runs/seed0 runs/seed1 runs/seed2
  concord compare a.npy b.npy --json > result.json
  concord compare hf://owner/saes@main/layer_8/seed_0 hf://owner/saes@main/layer_8/seed_1 --plot compare.png
"""
)
@click.argument("saes", nargs=-1, metavar="SAE SAE [SAE ...]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON (schema: concord compare --schema).")
@click.option("--no-matches", is_flag=True, help="Leave the matched features out of the JSON.")
@click.option("--pairs", type=click.Path(dir_okay=False), help="Write the matched features to this Parquet file.")
@click.option("--plot", type=click.Path(dir_okay=False), help="Write a figure to this .png or .svg file.")
@click.option("--format", "format_", help="Format of the files; detected by default.")
@click.option("--key", help="Name of the decoder in a file that holds several arrays.")
@click.option(
    "--rows",
    type=click.Choice(["features", "inputs"]),
    default="features",
    show_default=True,
    help="What the rows of a bare array are.",
)
@click.option("--full", is_flag=True, help="Measure everything, whatever the size.")
@click.option("--time-budget", type=click.FloatRange(min=0, min_open=True), help="Seconds for one matching.")
@click.option("--schema", is_flag=True, help="Print the JSON schema of --json and stop.")
def compare(
    saes: tuple[str, ...],
    as_json: bool,
    no_matches: bool,
    pairs: str | None,
    plot: str | None,
    format_: str | None,
    key: str | None,
    rows: Literal["features", "inputs"],
    full: bool,
    time_budget: float | None,
    schema: bool,
) -> None:
    """Match the features of two or more SAEs: PW-MCC, its chance levels, the matching.

    SAE is a folder or file in any format that is known (SAELens, dictionary_learning, sparsify, Gemma Scope, OpenMOSS,
    a bare array of decoder rows), or hf://owner/name[@revision]/folder on the hub.
    """
    from pipelines.comparing import Outputs, UserError, json_schema, run_comparison

    if schema:
        click.echo(json_schema())
        return
    outputs = Outputs(as_json=as_json, matches=not no_matches, pairs=pairs, plot=plot)
    try:
        text = run_comparison(saes, outputs, format=format_, key=key, rows=rows, full=full, time_budget_s=time_budget)
    except UserError as error:
        raise click.ClickException(str(error)) from error
    click.echo(text)


@main.command(
    epilog="""\b
Examples:
  concord lineage quickstart/consistency@topk-d1024-k16
  concord lineage quickstart/report --settings
  concord lineage .concord/store/sae/0c2c15865a5a36cd8f4a771f6c5def4f --json > lineage.json
"""
)
@click.argument("artifact")
@click.option("--json", "as_json", is_flag=True, help="Print PROV-JSON (W3C PROV) instead of a tree.")
@click.option("--settings", is_flag=True, help="Show the settings of every artifact.")
def lineage(artifact: str, as_json: bool, settings: bool) -> None:
    """Everything ARTIFACT was made from, down to the digests of the model and the text.

    ARTIFACT is a folder of the store, kind/fingerprint (its beginning is enough), or an asset with its partition.
    """
    from pipelines.tracing import find_artifact, open_store
    from sae_core.lineage import prov_document, trace, tree_text

    with _told():
        store = open_store()
        found = trace(store, find_artifact(store, artifact))
        click.echo(prov_document(found).serialize(format="json", indent=1) if as_json else tree_text(found, settings))


@main.command(
    epilog="""\b
Examples:
  concord verify quickstart/report
  concord verify sae/0c2c1586
"""
)
@click.argument("artifact")
def verify(artifact: str) -> None:
    """Hash ARTIFACT and everything upstream of it again, and name what is missing or altered."""
    from pipelines.tracing import find_artifact, open_store
    from sae_core.lineage import trace, verify_chain
    from sae_core.terminal_progress import TerminalProgress

    with _told():
        store = open_store()
        found = trace(store, find_artifact(store, artifact))
        wrong = verify_chain(found, TerminalProgress("verifying"))
    for line in wrong:
        click.echo(line)
    if wrong:
        raise click.ClickException(
            "not as it was made; remove the folders that are named and materialize their assets again"
        )
    click.echo(f"{len(found.nodes)} artifacts are as they were made")


@main.command(
    epilog="""\b
Examples:
  concord diff quickstart/consistency@topk-d1024-k16 quickstart/consistency@topk-d1024-k32
  concord diff sae/0c2c1586 sae/1ec080d1
"""
)
@click.argument("a")
@click.argument("b")
def diff(a: str, b: str) -> None:
    """In which inputs the artifacts A and B differ, followed upstream to where the difference begins."""
    from pipelines.tracing import find_artifact, open_store
    from sae_core.lineage import differences

    with _told():
        store = open_store()
        found = differences(store, find_artifact(store, a), find_artifact(store, b))
    for each in found:
        click.echo(str(each))
    if not found:
        click.echo("the same content")


@main.command(
    epilog="""\b
Examples:
  concord gc
  concord gc --delete
"""
)
@click.option("--delete", is_flag=True, help="Remove it; without this nothing is touched.")
@click.option(
    "--older-than",
    "days",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Days; what is younger stays, for a run may be about to refer to it.",
)
def gc(delete: bool, days: float) -> None:
    """What nothing in Dagster's history refers to: artifacts that no materialization made or was made from, and what
    killed builds left.

    Results of former versions of a model are referred to, so they stay.
    """
    from pipelines.tracing import materialized_artifacts, open_store
    from sae_core.lineage import collect_garbage, find_garbage
    from sae_core.lineage.garbage import kinds

    with _told():
        store = open_store()
        garbage = find_garbage(store, materialized_artifacts(store), days)
        for kind, (n, size) in kinds(garbage.artifacts).items():
            click.echo(f"{kind}: {n}, {size / 1e6:,.1f} MB")
        click.echo(
            f"{len(garbage.artifacts)} artifacts and {len(garbage.staging)} unfinished builds, "
            f"{garbage.n_bytes / 1e6:,.1f} MB; {garbage.n_kept} artifacts stay"
        )
        if delete:
            collect_garbage(store, garbage)
            click.echo("removed")
        elif garbage.artifacts or garbage.staging:
            click.echo("nothing was touched; concord gc --delete removes it")


@main.command(
    epilog="""\b
Examples:
  concord reproduce quickstart/consistency@topk-d1024-k16
  concord reproduce sae/0c2c1586 --into /tmp/again
  concord reproduce quickstart/report --all
"""
)
@click.argument("artifact")
@click.option(
    "--into",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep what is made in this folder; by default it is made beside the store and removed.",
)
@click.option("--all", "everything", is_flag=True, help="Make everything upstream again too, from model and text on.")
def reproduce(artifact: str, into: Path | None, everything: bool) -> None:
    """Make ARTIFACT again by the recipe of its manifest, and compare the contents. Nothing in the store is changed.

    Refused where the model, the text or anything else that it was made from is not what it was. Ends with 0 only if
    every content is the same, byte for byte.
    """
    from pipelines.reproducing import reproduce_artifact
    from sae_core.terminal_progress import TerminalProgress

    with _told():
        found = reproduce_artifact(artifact, into, everything, TerminalProgress("reproducing"), click.echo)
    for each in found.remade:
        click.echo(str(each))
    if not found.same:
        wrong = sum(not each.same for each in found.remade)
        raise click.ClickException(f"{wrong} of {len(found.remade)} came out different")
    click.echo(f"{len(found.remade)} made again, all the same")


@main.command(
    epilog="""\b
Examples:
  concord status
  concord status quickstart --all
  concord status --exit-code
"""
)
@click.argument("study", required=False)
@click.option("--all", "everything", is_flag=True, help="Also the partitions that are up to date.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--exit-code", is_flag=True, help="End with 1 if anything is out of date.")
def status(study: str | None, everything: bool, as_json: bool, exit_code: bool) -> None:
    """What is out of date in STUDY, or in all of them, and why; what would be made by itself.

    missing: never made. stale: made from what has changed since. behind: made from what is there, but something
    upstream is missing or stale. gone: the store does not have what was made.
    """
    from pipelines.status import read_status, status_json, status_lines

    with _told():
        found = read_status(study)
    click.echo(status_json(found) if as_json else "\n".join(status_lines(found, everything)))
    if exit_code and not all(each.is_up_to_date for each in found):
        raise click.exceptions.Exit(1)


@contextmanager
def _told() -> Iterator[None]:
    """What went wrong as a message, without a traceback."""
    from pipelines.tracing import NotFound
    from sae_core.store import StoreError

    try:
        yield
    except (NotFound, StoreError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
