"""The stages of a synthetic study as artifacts, as ``sae_core.chain`` has those of a study on a language model.

A point (data, variant, recipe, seeds) is an artifact of its own, so an experiment with one more point makes only that::

    store = ArtifactStore("my-store")
    point = make_point(store, config)
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_core.progress import Progress, silent
from sae_core.recipes import recipe
from sae_core.store import Artifact, ArtifactStore
from sae_core.synthetic_config import PointConfig, SyntheticStudyConfig

SYNTHETIC_CODE_VERSION = {"synthetic_point": "1", "synthetic_experiment": "1", "reproduction": "1"}
"""Raise a number when the same inputs give other results than before: it makes the old artifacts stale."""


def make_point(store: ArtifactStore, point: PointConfig, progress: Progress = silent) -> Artifact:
    """SAEs of one variant under all seeds on one kind of data, and everything that is measured of them."""

    def build(folder: Path) -> Mapping[str, Any]:
        from sae_core.synthetic.points import build_point

        return build_point(folder, point, progress)

    return store.get_or_build(
        "synthetic_point",
        build,
        code_version=SYNTHETIC_CODE_VERSION["synthetic_point"],
        inputs={"point": point.model_dump(mode="json", exclude={"recipe_name"})},
        recipe=recipe("synthetic_point", point=point),
    )


def preflight_synthetic(study: SyntheticStudyConfig) -> None:
    """Refuse data that cannot be made, of any experiment, before the first SAE is trained.

    Raises:
        ValueError: naming the point.
    """
    for experiment in study.experiments:
        for group in experiment.groups:
            _check(study.points(experiment, group.name))


def _check(points: Sequence[PointConfig]) -> None:
    from sae_core.synthetic.data import check_firing

    for point in points:
        try:
            check_firing(point.data)
        except ValueError as error:
            raise ValueError(f"{point.key}: {error}") from error


def make_experiment(
    store: ArtifactStore, study: SyntheticStudyConfig, experiment: str, group: str, progress: Progress = silent
) -> Artifact:
    """The points of one group of an experiment, their table and their figure.

    Points that exist are not made again; a killed call goes on with the first that is missing.

    Raises:
        ValueError: if the data of a point cannot be made, before anything is trained; or if an SAE diverges.
    """

    def build(folder: Path) -> Mapping[str, Any]:
        from sae_core.reproduction import write_experiment
        from sae_core.synthetic.results import PointSummary

        summaries = [PointSummary.model_validate_json((made.path / "summary.json").read_bytes()) for made in points]
        # The name of a recipe is not part of a point: two names for the same numbers are the same point.
        summaries = [
            summary.model_copy(update={"config": config}) for summary, config in zip(summaries, configs, strict=True)
        ]
        return write_experiment(folder, found.group(group), summaries)

    found = study.experiment(experiment)
    configs = study.points(found, group)
    _check(configs)
    points = []
    for number, config in enumerate(configs):
        progress(number, len(configs), config.key)
        points.append(make_point(store, config, _inside(progress, number, len(configs), config.key)))
    return store.get_or_build(
        "synthetic_experiment",
        build,
        code_version=SYNTHETIC_CODE_VERSION["synthetic_experiment"],
        inputs={
            "experiment": experiment,
            "group": found.group(group).model_dump(mode="json", include={"name", "figure", "x"}),
            "points": [config.key for config in configs],
        },
        upstream={config.key: made for config, made in zip(configs, points, strict=True)},
        recipe=recipe("synthetic_experiment", study=study, experiment=experiment, group=group),
    )


def make_reproduction(
    store: ArtifactStore,
    study: SyntheticStudyConfig,
    experiments: Mapping[tuple[str, str], Artifact],
    language_model: Mapping[str, Mapping[str, Artifact]] | None = None,
    progress: Progress = silent,
) -> Artifact:
    """The paper's numbers beside ours: one page with its table and figures.

    Args:
        experiments: by the names of experiment and group.
        language_model: for each variant key ``consistency`` and, where there is one, ``explanation_similarity``.
    """

    def build(folder: Path) -> Mapping[str, Any]:
        from sae_core.reproduction import LanguageModelResult, read_points, write_reproduction

        results: dict[str, dict[str, Any]] = {}
        for number, ((experiment, group), artifact) in enumerate(experiments.items()):
            progress(number, len(experiments), f"reading {experiment}, {group}")
            results.setdefault(experiment, {})[group] = read_points(artifact.path)
        found = {
            variant: LanguageModelResult(
                consistency=_summary(made["consistency"]),
                similarity=_summary(made["explanation_similarity"]) if "explanation_similarity" in made else None,
            )
            for variant, made in (language_model or {}).items()
        }
        return write_reproduction(folder, study, results, found or None)

    upstream = {f"{experiment} {group}": artifact for (experiment, group), artifact in experiments.items()}
    for variant, made in (language_model or {}).items():
        upstream |= {f"language model {variant} {name}": artifact for name, artifact in made.items()}
    return store.get_or_build(
        "reproduction",
        build,
        code_version=SYNTHETIC_CODE_VERSION["reproduction"],
        inputs={"study": study.model_dump(mode="json", exclude={"automation", "owners"})},
        upstream=upstream,
        recipe=recipe(
            "reproduction",
            study=study,
            experiments=list(experiments),
            language_model={variant: list(made) for variant, made in (language_model or {}).items()},
        ),
    )


def _summary(artifact: Artifact) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((artifact.path / "summary.json").read_text())
    return found


def _inside(progress: Progress, number: int, total: int, key: str) -> Progress:
    """Progress inside a point, told as a part of the experiment's."""
    return lambda _done, _total, text: progress(number, total, f"{key}: {text}")
