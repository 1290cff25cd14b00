"""What the UI shows of an artifact, beside the provenance: numbers that it plots over time, tables, pictures."""

import base64
from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets.point_numbers import point_numbers
from assets.verdicts import markdown_verdicts, read_verdicts
from sae_core.store import Artifact

# sae_core.report is imported where it is used: definitions load without matplotlib and torch.


def _numbers(summary: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in summary.items() if isinstance(value, (int, float, str, bool))}


def _picture(png: bytes, name: str) -> dict[str, Any]:
    # Pictures in metadata live in Dagster's event database: small ones only.
    text = dg.MetadataValue.md(f"![{name}](data:image/png;base64,{base64.b64encode(png).decode()})")
    return {f"figure: {name}": text}


def consistency_metadata(artifact: Artifact) -> dict[str, Any]:
    """PW-MCC and what stands beside it, the stable core, and how agreement grew while the runs were trained."""
    from sae_core.report.pictures import consistency_figure, core_figure, over_training_figure

    found = _numbers(artifact.summary) | _picture(consistency_figure(artifact.path), "consistency")
    if (artifact.path / "core_curve.parquet").is_file():
        found |= _picture(core_figure(artifact.path), "stable core")
    if (artifact.path / "over_training.parquet").is_file():
        found |= _picture(over_training_figure(artifact.path), "agreement over training")
    return found


def model_versions_metadata(artifact: Artifact) -> dict[str, Any]:
    """PW-MCC across versions of the model and within them, the table of all versions, and the figure."""
    from sae_core.report.pictures import model_versions_figure
    from sae_core.report.reading import markdown_versions

    # The picture of a single version would be a single point.
    several = artifact.summary["n_versions"] > 1
    picture = _picture(model_versions_figure(artifact.path), "model versions") if several else {}
    return {
        "versions": dg.MetadataValue.md(markdown_versions(artifact.path)),
        "dagster/row_count": artifact.summary["n_versions"],
        **_numbers(artifact.summary),
        **picture,
    }


def context_metadata(artifact: Artifact) -> dict[str, Any]:
    """Counts, and the strongest context of a few features to read."""
    from sae_core.report.reading import markdown_contexts

    summary = artifact.summary
    return {
        **_numbers(summary),
        **{f"{name}/half {i}": n for name in ("n_tokens", "n_documents") for i, n in enumerate(summary[name])},
        **{f"n_examples/{kind}": n for kind, n in summary["n_examples"].items()},
        "examples": dg.MetadataValue.md(markdown_contexts(artifact.path)),
    }


def explanation_metadata(artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    """For every explainer counts, what was asked of a model, and a few explanations to read."""
    from sae_core.report.reading import markdown_explanations

    found: dict[str, Any] = {}
    for artifact in artifacts.values():
        name = artifact.summary["explainer"]
        found |= {f"{number}/{name}": value for number, value in _numbers(artifact.summary).items()}
        found[f"examples/{name}"] = dg.MetadataValue.md(markdown_explanations(artifact.path))
    return found


def score_metadata(scores: Mapping[str, Artifact], explanations: Mapping[str, Artifact]) -> dict[str, Any]:
    """The median of every score of every explainer, and all of them as a table.

    Args:
        explanations: those scored, in the same order.
    """
    from sae_core.report.reading import markdown_scores

    named = [explained.summary["explainer"] for explained in explanations.values()]
    by_explainer = dict(zip(named, scores.values(), strict=True))
    table = markdown_scores({name: made.path for name, made in by_explainer.items()})
    found: dict[str, Any] = {"table": dg.MetadataValue.md(table)}
    for name, made in by_explainer.items():
        found |= {f"{number}/{name}": value for number, value in _numbers(made.summary).items()}
        medians = {score["name"]: score["median"] for score in made.summary["scores"]}
        found |= {f"{score}/{name}": value for score, value in medians.items() if value is not None}
    return found


_MEASURED = (
    "rho_partial", "permutation_p", "rho", "lift", "auc", "auc_shuffled", "noise_ceiling", "n_used", "n_asked",
    "n_below_chance",
)  # fmt: skip
"""Numbers of a measure that the UI plots."""


def similarity_metadata(artifact: Artifact) -> dict[str, Any]:
    """The numbers of every measure, the table of measures, the published table beside ours, and the figure."""
    from sae_core.report.pictures import similarity_figure
    from sae_core.report.reading import markdown_measures, markdown_published

    measured = {
        f"{number}/{each['measure']}": each[number]
        for each in artifact.summary["measures"]
        for number in _MEASURED
        if each[number] is not None
    }
    return {
        "measures": dg.MetadataValue.md(markdown_measures(artifact.path)),
        "published beside ours": dg.MetadataValue.md(markdown_published(artifact.path)),
        **_numbers(artifact.summary),
        **measured,
        **_picture(similarity_figure(artifact.path), "similarity of explanations"),
    }


def report_metadata(artifact: Artifact) -> dict[str, Any]:
    """The table of variants, the figure, where the page lies, and the numbers of the variant that agrees most."""
    from sae_core.report.writing import markdown_table

    return {
        "table": dg.MetadataValue.md(markdown_table(artifact.path)),
        "page": dg.MetadataValue.path(str(artifact.path / "report.html")),
        "dagster/row_count": artifact.summary["n_variants"],
        **_numbers(artifact.summary),
        **_picture((artifact.path / "report_small.png").read_bytes(), "report"),
    }


def experiment_metadata(artifact: Artifact) -> dict[str, Any]:
    """GT-MCC and PW-MCC of every point, their table and their figure."""
    points = point_numbers(artifact)
    return {
        "table": dg.MetadataValue.md((artifact.path / "table.md").read_text(encoding="utf-8")),
        **_numbers(artifact.summary),
        **{f"gt_mcc/{point.key}": point.gt_mcc for point in points},
        **{f"pw_mcc/{point.key}": point.pw_mcc for point in points},
        **_picture((artifact.path / "figure_small.png").read_bytes(), "points"),
    }


def reproduction_metadata(artifact: Artifact) -> dict[str, Any]:
    """The table of verdicts, how often each was given, where the page lies, and where agreement follows the truth."""
    rows = read_verdicts(artifact.path)
    return {
        "table": dg.MetadataValue.md(markdown_verdicts(rows)),
        "page": dg.MetadataValue.path(str(artifact.path / "reproduction.md")),
        "dagster/row_count": len(rows),
        **_numbers(artifact.summary),
        **_picture((artifact.path / "proxy_map_small.png").read_bytes(), "agreement and truth"),
    }
