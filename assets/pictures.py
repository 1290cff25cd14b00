"""What the UI shows of an artifact, beside the provenance: numbers that it plots over time, tables, pictures."""

import base64
import json
from pathlib import Path
from typing import Any

import dagster as dg

from sae_core.store import Artifact

_MAX_PICTURE_BYTES = 400_000
"""Pictures in metadata live in Dagster's event database: small ones only."""


def _numbers(summary: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in summary.items() if isinstance(value, (int, float, str, bool))}


def _picture(path: Path) -> dict[str, Any]:
    if not path.is_file() or path.stat().st_size > _MAX_PICTURE_BYTES:
        return {}
    encoded = base64.b64encode(path.read_bytes()).decode()
    return {"figure": dg.MetadataValue.md(f"![{path.stem}](data:image/png;base64,{encoded})")}


def consistency_metadata(artifact: Artifact) -> dict[str, Any]:
    """PW-MCC and what stands beside it."""
    return _numbers(artifact.summary) | _picture(artifact.path / "figure.png")


def explanation_metadata(artifact: Artifact) -> dict[str, Any]:
    """Counts, and a few explanations to read."""
    return _numbers(artifact.summary)


def similarity_metadata(artifact: Artifact) -> dict[str, Any]:
    """Correlations and the lift over decoys."""
    return _numbers(artifact.summary) | _picture(artifact.path / "figure.png")


def report_metadata(artifact: Artifact) -> dict[str, Any]:
    """The table of variants, the figure, and where the page lies."""
    rows = json.loads((artifact.path / "table.json").read_text())
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row[column]) for column in columns) + " |" for row in rows]
    return {
        "table": dg.MetadataValue.md("\n".join(lines)),
        "page": dg.MetadataValue.path(str(artifact.path / "report.html")),
        "dagster/row_count": len(rows),
    } | _picture(artifact.path / "report_small.png")


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else ("" if value is None else str(value))
