"""The table of a reproduction, published beside ours, as Markdown and for a terminal."""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

Verdict = dict[str, str]
"""One row: claim, setting, published, ours, ci, null, kappa, verdict, all as they are shown."""

_WIDTHS = {"claim": 44, "published": 18, "ours": 18, "verdict": 20}
"""Columns of the table for a terminal and the characters a line of each may have: 106 with what is between them."""
_GAP = "  "


def read_verdicts(folder: Path) -> list[Verdict]:
    """The rows of a *reproduction* artifact."""
    rows: list[Verdict] = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    return rows


def markdown_verdicts(rows: Sequence[Verdict]) -> str:
    """All columns as a Markdown table."""
    header = ["claim", "setting", "published", "ours", "95 % CI", "null", "kappa", "verdict"]
    fields = ["claim", "setting", "published", "ours", "ci", "null", "kappa", "verdict"]
    lines = [_line(header), "|-|-|" + "-:|" * (len(header) - 3) + "-|"]
    return "\n".join([*lines, *(_line([row[field].replace("|", "\\|") for field in fields]) for row in rows)])


def terminal_verdicts(rows: Sequence[Verdict]) -> str:
    """Claim, published value, ours and verdict, at most 110 characters wide; what is longer takes several lines."""
    lines = [_GAP.join(name.ljust(width) for name, width in _WIDTHS.items()).rstrip()]
    lines.append(_GAP.join("-" * width for width in _WIDTHS.values()))
    for row in rows:
        cells = [textwrap.wrap(row[name], width) or [""] for name, width in _WIDTHS.items()]
        for number in range(max(map(len, cells))):
            parts = [cell[number] if number < len(cell) else "" for cell in cells]
            lines.append(_GAP.join(map(str.ljust, parts, _WIDTHS.values())).rstrip())
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
