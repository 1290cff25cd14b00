"""Tables of the page: the answer, and what is said about every variant.

Part of *report*.
"""

from collections.abc import Sequence

from sae_core.consistency.results import FrequencyBin
from sae_core.report.explanation_tables import explanation_sections
from sae_core.report.numbers import MISSING, number, per_million, percent, with_interval
from sae_core.report.records import VariantRecord
from sae_core.report.stability import PageTable, Section, activations, chance, definitions, stability
from sae_core.report.table import SHARED_AT, Row


def answer_table(rows: Sequence[Row]) -> PageTable:
    """The variants, agreement first, then explanations, then quality."""
    nbsp = "\u00a0"
    header = [
        "variant", f"PW-MCC [95{nbsp}%{nbsp}CI]", "kappa", "null", f"cosine ≥{nbsp}{SHARED_AT}",
        f"joint ≥{nbsp}{SHARED_AT}", f"core ≥{nbsp}{SHARED_AT}", f"explanation{nbsp}ρ [95{nbsp}%{nbsp}CI]", "lift",
        "L0", "FVE", "loss recovered", "dead",
    ]  # fmt: skip
    cells = [
        [
            f"{row['variant']} ⚠" if row["warning"] else str(row["variant"]),
            with_interval(row["PW-MCC"], row["CI low"], row["CI high"]),
            number(row["kappa"]),
            number(row["null"]),
            percent(row["shared 0.7"]),
            percent(row["joint 0.7"]),
            number(row["core 0.7"], 0),
            with_interval(row["explanation rho"], row["rho low"], row["rho high"], 2),
            number(row["lift"], 3, sign=True),
            number(row["L0"], 1),
            number(row["FVE"]),
            number(row["loss recovered"]),
            percent(row["dead"]),
        ]
        for row in rows
    ]
    return PageTable(header, cells)


def sections(record: VariantRecord) -> list[Section]:
    """What the page says about one variant."""
    summary = record.consistency.summary
    found = [_runs(record), _pairs(record), definitions(summary), chance(summary)]
    for bins, how in ((summary.frequency_bins, "log-spaced bins"), (summary.frequency_bins_equal, "equal counts")):
        if bins:
            found.append(_frequencies(bins, how))
    alike = activations(record.consistency)
    return [*found, *stability(summary), *([alike] if alike else []), *explanation_sections(record)]


def _runs(record: VariantRecord) -> Section:
    header = ["seed", "L0", "FVE", "loss recovered", "loss: clean", "with SAE", "zeros", "alive", "dense"]
    rows = [
        [
            run.name,
            number(run.evaluation.l0, 1),
            number(run.evaluation.fve),
            number(run.evaluation.loss_recovered),
            number(run.evaluation.ce_clean),
            number(run.evaluation.ce_patched),
            number(run.evaluation.ce_zero),
            f"{run.evaluation.n_alive:,} of {run.evaluation.d_sae:,}",
            f"{run.evaluation.n_dense:,}",
        ]
        for run in record.runs
    ]
    tokens = sorted({run.evaluation.n_tokens for run in record.runs})
    loss_tokens = sorted(
        {run.evaluation.n_loss_tokens for run in record.runs if run.evaluation.n_loss_tokens is not None}
    )
    note = f"On {_numbers(tokens)} held-out tokens"
    note += f"; loss in nats over {_numbers(loss_tokens)} predictions" if loss_tokens else ""
    return Section(
        "Quality of each seed", PageTable(header, rows), note + ". Dense: fires on more than a tenth of them."
    )


def _pairs(record: VariantRecord) -> Section:
    summary = record.consistency.summary
    rows = [
        [
            f"{pair['run_a']} and {pair['run_b']}",
            number(pair["mcc"]),
            number(pair["mcc_alive"]),
            number(pair["mcc_signed"]),
            number(pair["null_sign_flip"]),
            percent(pair["share_negative"]),
            f"{pair['n_matched']:,}",
        ]
        for pair in record.consistency.pairs.to_pylist()
    ]
    proof = "Every matching is proven optimal" if summary.certified else f"Upper bound {number(summary.upper_bound, 4)}"
    zero = sum(summary.n_zero_rows)
    note = f"{proof}." + (f" {zero:,} decoder rows of zeros were left out." if zero else "")
    header = ["pair", "MCC", "alive", "signed", "null", "negative cosine", "matched"]
    return Section("Agreement of each pair of seeds", PageTable(header, rows), note)


def _frequencies(bins: Sequence[FrequencyBin], how: str) -> Section:
    rows = [
        [
            "never, in one seed at least" if part.high == 0 else f"{per_million(part.low)} – {per_million(part.high)}",
            f"{part.n_matches:,}",
            number(part.mean_cosine),
            number(part.sd_cosine),
            number(part.contribution),
        ]
        for part in bins
    ]
    header = ["fires per million tokens", "pairs", "mean |cosine|", "sd", "part of PW-MCC"]
    note = "By the rarer feature of a matched pair. The parts add up to PW-MCC."
    return Section(f"Agreement by frequency, {how}", PageTable(header, rows), note)


def _numbers(values: Sequence[int]) -> str:
    return " or ".join(f"{value:,}" for value in values) or MISSING
