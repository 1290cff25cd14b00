"""What the UI shows of an artifact, beside the provenance: numbers that it plots over time, tables, pictures."""

import base64
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


def explanation_metadata(artifact: Artifact) -> dict[str, Any]:
    """Counts, and a few explanations to read."""
    from sae_core.report.writing import markdown_explanations

    return _numbers(artifact.summary) | {"examples": dg.MetadataValue.md(markdown_explanations(artifact.path))}


def similarity_metadata(artifact: Artifact) -> dict[str, Any]:
    """Correlations and the lift over decoys."""
    from sae_core.report.pictures import similarity_figure

    return _numbers(artifact.summary) | _picture(similarity_figure(artifact.path), "similarity of explanations")


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
