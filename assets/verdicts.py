"""The table of a reproduction, the published numbers beside ours, as Markdown and for a terminal."""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
"""A row as ``rows.json`` has it (``sae_core.reproduction.rows.Row.as_json``)."""

_WIDTHS = {"row": 25, "claim": 33, "published": 14, "ours": 16, "verdict": 14}
"""Columns of the table for a terminal and the characters that a line of each may have, 110 with the gaps."""
_GAP = "  "


def read_verdicts(folder: Path) -> list[Row]:
    """The rows of a *reproduction* artifact."""
    rows: list[Row] = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    return rows


def markdown_verdicts(rows: Sequence[Row]) -> str:
    """Each row with its intervals, chance levels and notes, as a Markdown table."""
    lines = ["| claim | setting | published | ours | 95 % CI | null | kappa | verdict |", "|-|-|-:|-:|-:|-:|-:|-|"]
    for row in rows:
        claim = f"**{row['regime']}** {row['claim']}"
        verdict = f"**{row['verdict']}**" + "".join(f"; {note}" for note in row["notes"])
        cells = [claim, *(row[name] for name in ("setting", "published", "ours", "ci", "null", "kappa")), verdict]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def terminal_verdicts(rows: Sequence[Row]) -> str:
    """Published, ours and verdict, at most 110 characters wide; what is longer takes several lines."""
    lines = [_GAP.join(name.ljust(width) for name, width in _WIDTHS.items()).rstrip()]
    lines.append(_GAP.join("-" * width for width in _WIDTHS.values()))
    for row in rows:
        texts = [row["id"], f"{row['regime']}: {row['claim']}", row["published"], row["ours"], row["verdict"]]
        if any(value["chance_like"] for value in row["values"]):
            texts[3] += " (chance)"
        cells = [textwrap.wrap(text, width) for text, width in zip(texts, _WIDTHS.values(), strict=True)]
        for place in range(max(map(len, cells))):
            parts = [cell[place] if place < len(cell) else "" for cell in cells]
            lines.append(_GAP.join(map(str.ljust, parts, _WIDTHS.values())).rstrip())
    return "\n".join(lines)
