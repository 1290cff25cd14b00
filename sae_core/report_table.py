"""The table of variants: one flat record a variant, and the same as text for a terminal, a README or a page.

Part of *report*. A value that does not exist is None, and the record says why under ``missing``.
"""

import textwrap
from collections.abc import Mapping, Sequence

import pyarrow as pa

from sae_core.report_records import Value, VariantRecord
from sae_core.similarity_results import SimilaritySummary

Row = Mapping[str, Value]
MISSING = "–"
"""What stands in the place of a missing value."""
_VARIANT_WIDTH = 34
_SEPARATOR = "; "
"""Between the reasons of one record."""

TYPES: dict[str, pa.DataType] = {
    "variant": pa.string(),
    "seeds": pa.int64(),
    "L0": pa.float64(),
    "FVE": pa.float64(),
    "loss recovered": pa.float64(),
    "dead": pa.float64(),
    "PW-MCC": pa.float64(),
    "CI low": pa.float64(),
    "CI high": pa.float64(),
    "PW-MCC alive": pa.float64(),
    "PW-MCC signed": pa.float64(),
    "null": pa.float64(),
    "kappa": pa.float64(),
    "explanation rho": pa.float64(),
    "rho low": pa.float64(),
    "rho high": pa.float64(),
    "raw rho": pa.float64(),
    "lift": pa.float64(),
    "missing": pa.string(),
}
"""Columns of the table, in their order."""


def table_row(record: VariantRecord) -> dict[str, Value]:
    """One variant: quality as means over its seeds, agreement and explanations over its pairs of seeds."""
    consistent, explained = record.consistency.summary, record.similarity.summary
    runs = [run.evaluation for run in record.runs]
    rho = explained.rho_partial_ci
    recovered = [run.loss_recovered for run in runs if run.loss_recovered is not None]
    row: dict[str, Value] = {
        "variant": record.key,
        "seeds": len(runs),
        "L0": _mean([run.l0 for run in runs]),
        "FVE": _mean([run.fve for run in runs]),
        "loss recovered": _mean(recovered) if len(recovered) == len(runs) else None,
        "dead": _mean([run.dead_fraction for run in runs]),
        "PW-MCC": consistent.pw_mcc,
        "CI low": consistent.ci_low,
        "CI high": consistent.ci_high,
        "PW-MCC alive": consistent.pw_mcc_alive,
        "PW-MCC signed": consistent.pw_mcc_signed,
        "null": consistent.null_sign_flip,
        "kappa": consistent.kappa_sign_flip,
        "explanation rho": explained.rho_partial,
        "rho low": rho.low if rho else None,
        "rho high": rho.high if rho else None,
        "raw rho": explained.rho,
        "lift": explained.lift,
    }
    return {**row, "missing": _SEPARATOR.join(missing_reasons(record)) or None}


def missing_reasons(record: VariantRecord) -> list[str]:
    """Why values of the table do not exist, one sentence each."""
    consistent, explained = record.consistency.summary, record.similarity.summary
    found = []
    without = [run for run in record.runs if run.evaluation.loss_recovered is None]
    if without:
        measured = any(run.evaluation.ce_clean is not None for run in without)
        why = "zeros in place of the activations do no harm" if measured else "not measured"
        found.append(f"loss recovered of {', '.join(run.name for run in without)}: {why}")
    if consistent.ci_low is None:
        found.append(f"confidence interval of PW-MCC: {consistent.ci_reason}")
    if consistent.pw_mcc_alive is None:
        found.append(f"PW-MCC alive: {consistent.alive_reason}")
    if consistent.kappa_sign_flip is None:
        found.append("kappa: chance alone gives a PW-MCC of 1")
    if explained.rho_partial is None:
        found.append(f"explanation rho: {unexplained(explained)}")
    elif explained.rho_partial_ci is None:
        two = "two runs make one pair: a confidence interval needs at least three runs"
        some = "a pair of runs has too few explained pairs of features"
        found.append(f"confidence interval of explanation rho: {two if explained.n_runs == 2 else some}")
    if explained.lift is None and explained.rho_partial is not None:
        found.append("lift: no other pair to compare with")
    return found


def unexplained(explained: SimilaritySummary) -> str:
    """How many matched pairs have explanations on both sides, and why the others have none, the most frequent first."""
    reasons = sorted(explained.missing.items(), key=lambda item: (-item[1], item[0]))
    why = f" ({', '.join(f'{count:,} {reason}' for reason, count in reasons)})" if reasons else ""
    return f"{explained.n_used:,} of {explained.n_matched:,} matched pairs are explained on both sides{why}"


def terminal_rows(rows: Sequence[Row]) -> str:
    """The most important columns, aligned, at most 110 characters wide; below it why values are missing."""
    header = ["variant", "L0", "FVE", "loss rec.", "PW-MCC [95 % CI]", "null", "kappa", "expl. rho"]
    cells = [
        [
            _shortened(str(row["variant"])),
            number(row["L0"], 1),
            number(row["FVE"]),
            number(row["loss recovered"]),
            with_interval(row["PW-MCC"], row["CI low"], row["CI high"]),
            number(row["null"]),
            number(row["kappa"]),
            number(row["explanation rho"], 2),
        ]
        for row in rows
    ]
    widths = [max(len(line[column]) for line in [header, *cells]) for column in range(len(header))]
    lines = [_aligned(header, widths), "  ".join("-" * width for width in widths)]
    lines += [_aligned(line, widths) for line in cells]
    for note in missing_notes(rows):
        lines += textwrap.wrap(f"{MISSING} {note}", 110, subsequent_indent="  ")
    return "\n".join(lines)


def markdown_rows(rows: Sequence[Row]) -> str:
    """The same columns and those of the page, as a Markdown table."""
    header = [
        "variant", "L0", "FVE", "loss recovered", "dead", "PW-MCC [95 % CI]", "alive", "signed", "null", "kappa",
        "explanation rho (raw)", "lift", "seeds",
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
            number(row["explanation rho"], 2) + raw,
            number(row["lift"], 3, sign=True),
            str(row["seeds"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"{MISSING} {note}  " for note in missing_notes(rows))]).rstrip()


def missing_notes(rows: Sequence[Row]) -> list[str]:
    """Why values are missing, each reason once, with the variants it holds for where it does not hold for all."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for reason in str(row["missing"]).split(_SEPARATOR) if row["missing"] else []:
            found.setdefault(reason, []).append(str(row["variant"]))
    return [reason if len(keys) == len(rows) else f"{', '.join(keys)}: {reason}" for reason, keys in found.items()]


def number(value: Value, digits: int = 3, sign: bool = False) -> str:
    """A number with so many digits after the point; a dash where there is none."""
    if value is None or isinstance(value, str):
        return MISSING
    text = f"{value:+,.{digits}f}" if sign else f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def percent(value: Value, digits: int = 1) -> str:
    """A share in percent; a dash where there is none."""
    return MISSING if value is None or isinstance(value, str) else f"{number(100 * value, digits)} %"


def per_million(frequency: float) -> str:
    """A share of tokens, as tokens per million."""
    value = 1e6 * frequency
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def evenly_spaced(n: int, wanted: int) -> list[int]:
    """At most ``wanted`` (at least 2) places among n, first and last included, evenly spaced."""
    return sorted({round(i * (n - 1) / (wanted - 1)) for i in range(wanted)}) if n else []


def with_interval(value: Value, low: Value, high: Value, digits: int = 3) -> str:
    """``0.550 [0.530, 0.570]``, or with a dash in the brackets where there is no interval."""
    if value is None:
        return MISSING
    ends = MISSING if low is None or high is None else f"{number(low, digits)}, {number(high, digits)}"
    return f"{number(value, digits)} [{ends}]"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _shortened(name: str) -> str:
    return name if len(name) <= _VARIANT_WIDTH else name[: _VARIANT_WIDTH - 1] + "…"


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = zip(cells, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]).rstrip()
