"""Artifacts of explanations as Markdown, which the UI shows: something to read, and their numbers as tables.

Part of *report*.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from sae_core.report.explanation_tables import measures_table, published_table
from sae_core.report.numbers import MISSING, evenly_spaced, number, per_million
from sae_core.report.records import SimilarityRecord, VersionsRecord, read_scores
from sae_core.report.stability import PageTable
from sae_core.report.table import reasons
from sae_core.report.version_tables import across_table, version_conclusions, versions_table


def markdown_contexts(folder: Path, n: int = 8) -> str:
    """The strongest context of a few features of a *feature contexts* artifact, evenly spaced over the frequency."""
    table = pq.read_table(folder / "features.parquet", columns=["feature", "half", "n_activations", "frequency"])
    rows = [row for row in table.to_pylist() if row["half"] == 0 and row["n_activations"]]
    if not rows:
        return "No feature fires."
    rows.sort(key=lambda row: (-row["frequency"], row["feature"]))
    chosen = [rows[place] for place in evenly_spaced(len(rows), n)]
    ids = [row["feature"] for row in chosen]
    examples = pq.read_table(
        folder / "examples.parquet",
        columns=["feature", "activation", "text"],
        filters=[("feature", "in", ids), ("half", "=", 0), ("kind", "=", "strongest")],
    ).to_pylist()
    strongest = {example["feature"]: example for example in reversed(examples)}
    cells = [
        [
            str(row["feature"]),
            per_million(row["frequency"]),
            f"{row['n_activations']:,}",
            strongest[row["feature"]]["text"] if row["feature"] in strongest else MISSING,
        ]
        for row in chosen
    ]
    header = ["feature", "fires per million tokens", "activations (half 0)", "strongest context"]
    return _markdown(PageTable(header, cells), numbers=3)


def markdown_explanations(folder: Path, n: int = 12) -> str:
    """A few rows of an *explanations* artifact: evenly spaced over the frequency, none picked by hand."""
    table = pq.read_table(folder / "explanations.parquet", columns=["feature", "half", "explanation", "frequency"])
    rows = [row for row in table.to_pylist() if row["explanation"] is not None and row["half"] == 0]
    if not rows:
        return "No feature has an explanation."
    rows.sort(key=lambda row: (-row["frequency"], row["feature"]))
    chosen = [rows[place] for place in evenly_spaced(len(rows), n)]
    cells = [[str(row["feature"]), per_million(row["frequency"]), row["explanation"]] for row in chosen]
    return _markdown(PageTable(["feature", "fires per million tokens", "explanation"], cells), numbers=2)


def markdown_scores(folders: Mapping[str, Path]) -> str:
    """All scores of some *explanation scores* artifacts, a row a score.

    Args:
        folders: by explainer.
    """
    cells = [
        [
            f"{explainer}: {score.name.replace('_', ' ')}",
            number(score.median),
            number(score.mean),
            number(score.chance),
            f"{score.n:,}",
            reasons(score.missing),
        ]
        for explainer, folder in folders.items()
        for score in read_scores(folder).scores
    ]
    if not cells:
        return "Nothing was scored."
    header = ["score", "median", "mean", "chance", "explanations", "missing"]
    return _markdown(PageTable(header, cells), numbers=5)


def markdown_measures(folder: Path) -> str:
    """The measures of an *explanation similarity* artifact side by side."""
    return _markdown(measures_table({"": SimilarityRecord.read(folder)}), numbers=9)


def markdown_versions(folder: Path) -> str:
    """What a *model versions* artifact says, the comparison of the last two models, and all versions."""
    found = [("seeds", VersionsRecord.read(folder).summary)]
    compared = across_table(found)
    tables = [_markdown(compared)] if compared.rows else []
    return "\n\n".join([*version_conclusions(found), *tables, _markdown(versions_table(found), numbers=0)])


def markdown_published(folder: Path) -> str:
    """The published table with that of an *explanation similarity* artifact beside it."""
    return _markdown(published_table(SimilarityRecord.read(folder)))


def _markdown(table: PageTable, numbers: int | None = None) -> str:
    """A Markdown table.

    Args:
        numbers: columns that hold numbers, from the left; None: all of them.
    """
    right = len(table.header) if numbers is None else numbers
    rule = "|" + "".join("-:|" if place < right else "-|" for place in range(len(table.header)))
    return "\n".join([_row(table.header), rule, *(_row(row) for row in table.rows)])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
