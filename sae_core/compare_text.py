"""A comparison as text for a terminal: the SAEs, the numbers with their chance levels, a line a pair."""

import textwrap
from collections.abc import Sequence

from sae_core.compare_results import ComparedSae, Comparison
from sae_core.consistency.results import ConsistencySummary
from sae_core.report.numbers import MISSING, number, percent, with_interval

_NAME_WIDTH, _WIDTH = 40, 110
_SHOWN = {
    "pw_mcc_signed": "signed",
    "null_sign_flip": "sign-flip null",
    "shared_fraction_joint": "joint match",
    "core": "stable core",
    "uniqueness": "duplicates",
}
"""What the text has of the numbers that may be missing, and what it calls them."""


def comparison_text(comparison: Comparison) -> str:
    """What ``concord compare`` prints: at most 110 characters wide, every number with its name."""
    found = comparison.consistency
    parts = [_saes(comparison.saes), _headline(found), _details(found)]
    if len(comparison.pairs) > 1:
        parts.append(_pair_table(comparison))
    notes = [*_same_files(comparison.saes), *_reasons(found)]
    if notes:
        wrapped = (
            line for note in notes for line in textwrap.wrap(f"{MISSING} {note}", _WIDTH, subsequent_indent="  ")
        )
        parts.append("\n".join(wrapped))
    return "\n\n".join(parts)


def _saes(saes: Sequence[ComparedSae]) -> str:
    rows = [["", "format", "architecture", "features", "d_in", "encoder", "revision"]]
    for sae in saes:
        rows.append(
            [
                _shortened(sae.name),
                sae.format,
                sae.architecture or MISSING,
                f"{sae.d_sae:,}",
                f"{sae.d_in:,}",
                "yes" if sae.has_encoder else "no",
                sae.revision[:12] if sae.revision else MISSING,
            ]
        )
    return _table(rows)


def _headline(found: ConsistencySummary) -> str:
    value = with_interval(found.pw_mcc, found.ci_low, found.ci_high, digits=4)
    exact = "exact" if found.certified else f"not proven, at most {number(found.upper_bound, 4)}"
    lines = [f"PW-MCC  {value}  ({exact}; absolute cosine, {found.n_pairs} {_plural('pair', found.n_pairs)} of SAEs)"]
    if found.shared_initialisation:
        warning = f"WARNING  these SAEs share an initialisation: {found.shared_initialisation_reason}"
        lines += textwrap.wrap(warning, _WIDTH, subsequent_indent="         ")
    return "\n".join(lines)


def _details(found: ConsistencySummary) -> str:
    rows = [
        ["chance, random directions", number(found.null_isotropic, 4), f"kappa {number(found.kappa_isotropic)}"],
        ["chance, sign-flipped axes", number(found.null_sign_flip, 4), f"kappa {number(found.kappa_sign_flip)}"],
        [
            "signed (own optimum)",
            number(found.pw_mcc_signed, 4),
            f"{percent(found.share_negative)} of matched cosines < 0",
        ],
        ["MMCS, a to b and b to a", number(found.mmcs_forward, 4), number(found.mmcs_backward, 4)],
    ]
    rows += [[f"pairs with |cosine| >= {tau}", percent(share), ""] for tau, share in found.shared_fraction.items()]
    if found.shared_fraction_joint:
        rows += [
            [f"pairs with joint cosine >= {tau}", percent(share), "mean of decoder and encoder, own matching"]
            for tau, share in found.shared_fraction_joint.items()
        ]
    for level in found.core.levels if found.core else []:
        chance = f"chance {number(level.chance, 1)}" if level.chance is not None else ""
        rows.append([f"stable core at {level.tau:g}", f"{level.n_core:,}", chance])
    if found.uniqueness:
        rows.append(["unique features, mean", percent(sum(found.uniqueness) / len(found.uniqueness)), ""])
    return _table([["", "value", ""], *rows])


def _pair_table(comparison: Comparison) -> str:
    rows = [["a", "b", "matched", "MCC", "signed", "sign flip", "negative"]]
    for pair in comparison.pairs:
        rows.append(
            [
                _shortened(pair.a),
                _shortened(pair.b),
                f"{pair.n_matched:,}",
                number(pair.mcc, 4) + ("" if pair.certified else "*"),
                number(pair.mcc_signed, 4),
                number(pair.null_sign_flip, 4),
                percent(pair.share_negative),
            ]
        )
    stopped = "" if all(pair.certified for pair in comparison.pairs) else "\n* not proven to be the best matching"
    return _table(rows, n_left=2) + stopped


def _same_files(saes: Sequence[ComparedSae]) -> list[str]:
    found = []
    for number_, sae in enumerate(saes):
        for other in saes[number_ + 1 :]:
            if sorted(sae.files.values()) == sorted(other.files.values()):
                found.append(f"{sae.name} and {other.name} are copies of the same files")
    return found


def _reasons(found: ConsistencySummary) -> list[str]:
    """Why what the text shows is missing, each reason once."""
    reasons: dict[str, list[str]] = {}
    if found.ci_low is None and found.ci_reason:
        reasons[found.ci_reason] = ["confidence interval"]
    for field, name in _SHOWN.items():
        if field in found.not_measured:
            reasons.setdefault(found.not_measured[field], []).append(name)
    return [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()] + found.stopped


def _table(rows: Sequence[Sequence[str]], n_left: int = 1) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(w) if i < n_left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else "…" + name[1 - _NAME_WIDTH :]


def _plural(word: str, n: int) -> str:
    return word if n == 1 else word + "s"
