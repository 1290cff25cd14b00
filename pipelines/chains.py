"""What ``concord run`` does for one YAML file: what it materializes, in which order, and what it shows at the end."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from assets.keys import StudyKeys, SyntheticKeys, activations_key, observe_job_name
from assets.partitions import groups_by_partition, run_key
from assets.verdicts import read_verdicts, terminal_verdicts
from pipelines.loading import ProjectFiles
from sae_core.config import ModelConfig, StudyConfig
from sae_core.preflight import preflight_study
from sae_core.store import ArtifactStore
from sae_core.synthetic_chain import preflight_synthetic
from sae_core.synthetic_config import SyntheticStudyConfig


@dataclass(frozen=True)
class Step:
    """One materialization: an asset, and a partition of it where it has any."""

    title: str
    key: dg.AssetKey
    partition: str | None = None


@dataclass(frozen=True)
class Chain:
    """The steps of one file, and what stands around them."""

    steps: list[Step]
    """In an order in which everything upstream comes first; the artifact of the last one is shown."""
    page: str
    """File of that artifact that a user opens."""
    table: Callable[[Path], str]
    """The folder of that artifact as a table for the terminal."""
    preflight: Callable[[ArtifactStore], None] | None = None
    """Refuses, before anything runs, what can be known to be wrong."""
    observe: str | None = None
    """Job that looks for new weights before the first step."""
    for_docs: bool = False
    """Whether the page can stand in a folder of documentation."""


def chain_of(files: ProjectFiles, name: str) -> Chain:
    """The chain of the study with this name.

    Raises:
        KeyError: if there is none; the message lists those there are.
        ValueError: if its file, or that of its model, is broken; the message is that of the file.
    """
    if name in files.studies:
        return study_chain(*files.studies[name])
    if name in files.synthetic:
        return synthetic_chain(files.synthetic[name])
    if broken := [str(file) for file in files.broken if file.is_called(name)]:
        raise ValueError("\n".join(broken))
    raise KeyError(
        f"there is no study {name!r}; pipelines/defs/studies defines {_listed(files.studies)}; "
        f"pipelines/defs/synthetic defines {_listed(files.synthetic)}"
    )


def study_chain(study: StudyConfig, model: ModelConfig) -> Chain:
    """From the activations of a language model to the report."""
    keys, variants = StudyKeys(study.name), [variant.key for variant in study.variants]
    runs = [(variant, seed) for variant in variants for seed in study.seeds]
    of_runs = [
        ("contexts", keys.contexts), ("explanations", keys.explanations), ("explanation scores", keys.scores)
    ]  # fmt: skip
    return Chain(
        steps=[
            Step(f"activations of {model.name} at {study.hook}", activations_key(model.name, study.hook)),
            *(Step(f"SAE {variant}, seed {seed}", keys.sae, run_key(variant, seed)) for variant, seed in runs),
            *(Step(f"consistency of {variant}", keys.consistency, variant) for variant in variants),
            *(Step(f"model versions of {variant}", keys.model_versions, variant) for variant in variants),
            *(
                Step(f"{title} of {variant}, seed {seed}", key, run_key(variant, seed))
                for title, key in of_runs
                for variant, seed in runs
            ),
            *(Step(f"explanation similarity of {variant}", keys.similarity, variant) for variant in variants),
            Step("report", keys.report),
        ],
        page="report.html",
        table=_report_table,
        preflight=lambda store: preflight_study(study, model, store),
        observe=observe_job_name(model.name),
    )


def synthetic_chain(study: SyntheticStudyConfig) -> Chain:
    """Every group of every experiment, then the reproduction."""
    keys = SyntheticKeys(study.name)
    experiments = [
        Step(
            f"{experiment.name}, {group}" if partition else experiment.name, keys.experiment(experiment.name), partition
        )
        for experiment in study.experiments
        for partition, group in groups_by_partition(experiment).items()
    ]
    return Chain(
        steps=[*experiments, Step("reproduction", keys.reproduction)],
        page="reproduction.md",
        table=lambda folder: terminal_verdicts(read_verdicts(folder)),
        preflight=lambda _store: preflight_synthetic(study),
        for_docs=True,
    )


def _report_table(folder: Path) -> str:
    from sae_core.report.writing import terminal_table  # brings matplotlib

    return terminal_table(folder)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
