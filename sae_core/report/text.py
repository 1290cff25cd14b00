"""The table of variants as text, for a terminal or a README, with what readers must know of it below.

Part of *report*.
"""

import textwrap
from collections.abc import Sequence

from sae_core.report.numbers import MISSING, number, percent, with_interval
from sae_core.report.table import DEFINITION, SEPARATOR, Row

_WIDTH = 110
_VARIANT_WIDTH = 30


def terminal_rows(rows: Sequence[Row]) -> str:
    """The most important columns, aligned, at most 110 characters wide; below it warnings, the definition of PW-MCC,
    and why values are missing.
    """
    header = ["variant", "L0", "FVE", "loss", "PW-MCC [95 % CI]", "null", "kappa", ">= 0.7", "rho"]
    cells = [
        [
            _shortened(str(row["variant"])),
            number(row["L0"], 1),
            number(row["FVE"]),
            number(row["loss recovered"]),
            with_interval(row["PW-MCC"], row["CI low"], row["CI high"]),
            number(row["null"]),
            number(row["kappa"]),
            percent(row["shared 0.7"]),
            number(row["explanation rho"], 2),
        ]
        for row in rows
    ]
    widths = [max(len(line[column]) for line in [header, *cells]) for column in range(len(header))]
    lines = [_aligned(header, widths), "  ".join("-" * width for width in widths)]
    lines += [_aligned(line, widths) for line in cells]
    notes = [f"WARNING {note}" for note in warning_notes(rows)]
    notes.append(
        f"PW-MCC: {DEFINITION}. >= 0.7: pairs with at least that |cosine|. loss: loss recovered. rho: cosine and "
        "similarity of explanations."
    )
    notes += [f"{MISSING} {note}" for note in missing_notes(rows)]
    return "\n".join(
        [*lines, *(line for note in notes for line in textwrap.wrap(note, _WIDTH, subsequent_indent="  "))]
    )


def markdown_rows(rows: Sequence[Row]) -> str:
    """The same columns and those of the page, as a Markdown table."""
    header = [
        "variant", "L0", "FVE", "loss recovered", "dead", "PW-MCC [95 % CI]", "alive", "signed", "null", "kappa",
        "cosine ≥ 0.7", "joint ≥ 0.7", "core 0.7", "explanation rho (raw)", "lift", "seeds",
    ]  # fmt: skip
    lines = ["| " + " | ".join(header) + " |", "|-|" + "-:|" * (len(header) - 1)]
    for row in rows:
        raw = f" ({number(row['raw rho'], 2)})" if row["raw rho"] is not None else ""
        cells = [
            str(row["variant"]),
            number(row["L0"], 1),
            number(row["FVE"]),
            number(row["loss recovered"]),
            percent(row["dead"]),
            with_interval(row["PW-MCC"], row["CI low"], row["CI high"]),
            number(row["PW-MCC alive"]),
            number(row["PW-MCC signed"]),
            number(row["null"]),
            number(row["kappa"]),
            percent(row["shared 0.7"]),
            percent(row["joint 0.7"]),
            number(row["core 0.7"], 0),
            number(row["explanation rho"], 2) + raw,
            number(row["lift"], 3, sign=True),
            str(row["seeds"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    notes = [f"**Warning** {note}" for note in warning_notes(rows)]
    notes += [f"PW-MCC: {DEFINITION}.", *(f"{MISSING} {note}" for note in missing_notes(rows))]
    return "\n".join([*lines, "", *(f"{note}  " for note in notes)]).rstrip()


def warning_notes(rows: Sequence[Row]) -> list[str]:
    """What makes a variant's PW-MCC another thing than it looks like, each with the variants it holds for."""
    return _notes(rows, "warning", name_all=True)


def missing_notes(rows: Sequence[Row]) -> list[str]:
    """Why values are missing, each reason once, with the variants it holds for where it does not hold for all."""
    return _notes(rows, "missing", name_all=False)


def _notes(rows: Sequence[Row], column: str, name_all: bool) -> list[str]:
    found: dict[str, list[str]] = {}
    for row in rows:
        for reason in str(row[column]).split(SEPARATOR) if row[column] else []:
            found.setdefault(reason, []).append(str(row["variant"]))
    return [
        reason if len(keys) == len(rows) and not name_all else f"{', '.join(keys)}: {reason}"
        for reason, keys in found.items()
    ]


def _shortened(name: str) -> str:
    return name if len(name) <= _VARIANT_WIDTH else name[: _VARIANT_WIDTH - 1] + "…"


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = zip(cells, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]).rstrip()
