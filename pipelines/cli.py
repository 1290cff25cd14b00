"""The command line: ``concord``."""

import os

import click


@click.group(epilog="Example:  concord run quickstart")
def main() -> None:
    """Are the features of a sparse autoencoder real, or an accident of the seed?"""
    # Before torch and numba start their thread pools: their waiting threads would fight for the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["SAE_CONCORD_TERMINAL"] = "1"


@main.command("list")
def list_studies() -> None:
    """The studies that the YAML files under pipelines/defs define."""
    from pipelines.project import study_files

    for name, (study, model) in sorted(study_files().items()):
        variants = ", ".join(variant.key for variant in study.variants)
        click.echo(f"{name}: {model.name} at {study.hook}; {variants}; {len(study.seeds)} seeds")


@main.command(epilog="Examples:  concord run quickstart   |   concord run pythia-160m")
@click.argument("study")
def run(study: str) -> None:
    """Materialize every asset of STUDY: activations, SAEs, consistency, explanations, report.

    What is in the store already is not made again. A run that was killed goes on where it stopped.
    """
    from transformers.utils.logging import disable_progress_bar

    from pipelines.runner import StudyFailed, run_study
    from sae_core.report import terminal_table

    disable_progress_bar()  # of loading weights; the chain has its own
    try:
        outcome = run_study(study, echo=lambda line: click.echo(line, err=True))
    except (KeyError, ValueError, OSError, RuntimeError, StudyFailed) as error:
        raise click.ClickException(str(error.args[0] if isinstance(error, KeyError) else error)) from error
    click.echo()
    click.echo(terminal_table(outcome.report))
    made = outcome.n_steps - outcome.n_cache_hits
    click.echo(f"\n{made} made, {outcome.n_cache_hits} from the cache, {outcome.seconds:.0f} s")
    click.echo(f"Report: {outcome.report / 'report.html'}")
    click.echo("UI:     make ui, then open http://127.0.0.1:3000")
