"""The table of variants: one flat record a variant, what is missing from it and why, what to beware of.

Part of *report*. A value that does not exist is None, and the record says why under ``missing``.
"""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from sae_core.consistency.core_sizes import CoreLevel
from sae_core.consistency.results import ConsistencySummary
from sae_core.report.numbers import Value, number
from sae_core.report.records import ConsistencyRecord, VariantRecord
from sae_core.report.score_numbers import mean_of_medians
from sae_core.similarity.results import MeasureSummary

Row = Mapping[str, Value]
SEPARATOR = "; "
"""Between the reasons of one record."""
SHARED_AT = "0.7"
"""Cosine from which the literature calls a feature shared (Paulo & Belrose 2025)."""
DEFINITION = "mean |cosine| of decoder rows under the best one-to-one matching of all features"
"""Which PW-MCC the table gives: definitions differ between papers, and so do their numbers."""
_FLAGGED = "seeds are not independent"

TYPES: dict[str, pa.DataType] = {
    "variant": pa.string(),
    "definition": pa.string(),
    "seeds": pa.int64(),
    "features": pa.int64(),
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
    "null kind": pa.string(),
    "kappa": pa.float64(),
    "shared 0.7": pa.float64(),
    "joint 0.7": pa.float64(),
    "both 0.7": pa.float64(),
    "core 0.7": pa.int64(),
    "core share 0.7": pa.float64(),
    "explanation rho": pa.float64(),
    "rho low": pa.float64(),
    "rho high": pa.float64(),
    "rho p": pa.float64(),
    "raw rho": pa.float64(),
    "lift": pa.float64(),
    "AUC": pa.float64(),
    "AUC shuffled": pa.float64(),
    "noise ceiling": pa.float64(),
    "measure": pa.string(),
    "detection": pa.float64(),
    "missing": pa.string(),
    "warning": pa.string(),
}
"""Columns of the table, in their order."""


def table_row(record: VariantRecord) -> dict[str, Value]:
    """One variant: quality as means over its seeds, agreement and explanations over its pairs of seeds."""
    explained, runs = record.similarity.first, [run.evaluation for run in record.runs]
    rho = explained.rho_partial_ci
    recovered = [run.loss_recovered for run in runs if run.loss_recovered is not None]
    row: dict[str, Value] = {
        "variant": record.key,
        "definition": DEFINITION,
        "seeds": len(runs),
        "features": record.consistency.summary.d_sae,
        "L0": _mean([run.l0 for run in runs]),
        "FVE": _mean([run.fve for run in runs]),
        "loss recovered": _mean(recovered) if len(recovered) == len(runs) else None,
        "dead": _mean([run.dead_fraction for run in runs]),
        **_agreement(record.consistency),
        "explanation rho": explained.rho_partial,
        "rho low": rho.low if rho else None,
        "rho high": rho.high if rho else None,
        "rho p": explained.permutation_p,
        "raw rho": explained.rho,
        "lift": explained.lift,
        "AUC": explained.auc,
        "AUC shuffled": explained.auc_shuffled,
        "noise ceiling": explained.noise_ceiling,
        "measure": explained.measure,
        "detection": _detection(record),
    }
    joined = {"missing": missing_reasons(record), "warning": warnings(record.consistency.summary)}
    return {**row, **{name: _joined(reasons) for name, reasons in joined.items()}}


def _detection(record: VariantRecord) -> float | None:
    """Detection score of the explanations that the similarity above compares."""
    scores = record.scores.get(record.similarity.first.explainer or "", {})
    return mean_of_medians(scores, "detection_balanced_accuracy")


def _agreement(record: ConsistencyRecord) -> dict[str, Value]:
    found, core = record.summary, core_level(record.summary, SHARED_AT)
    return {
        "PW-MCC": found.pw_mcc,
        "CI low": found.ci_low,
        "CI high": found.ci_high,
        "PW-MCC alive": found.pw_mcc_alive,
        "PW-MCC signed": found.pw_mcc_signed,
        "null": record.null,
        "null kind": "random directions" if found.null_sign_flip is None else "sign flip",
        "kappa": record.kappa,
        "shared 0.7": found.shared_fraction.get(SHARED_AT),
        "joint 0.7": (found.shared_fraction_joint or {}).get(SHARED_AT),
        "both 0.7": (found.shared_fraction_both or {}).get(SHARED_AT),
        "core 0.7": core.n_core if core else None,
        "core share 0.7": core.share if core else None,
    }


def warnings(found: ConsistencySummary) -> list[str]:
    """What makes PW-MCC another thing than it looks like; empty where nothing does."""
    texts = []
    if found.shared_initialisation:
        texts.append(f"{_FLAGGED}: {found.shared_initialisation_reason}")
    if not found.certified:
        bound = number(found.upper_bound, 4)
        why = f" ({found.stopped[0]}{' and others' if len(found.stopped) > 1 else ''})" if found.stopped else ""
        texts.append(f"not every matching is proven optimal{why}: PW-MCC is at least its value and at most {bound}")
    return texts


def missing_reasons(record: VariantRecord) -> list[str]:
    """Why values of the table do not exist, one sentence each."""
    explained, found = record.similarity.first, []
    without = [run for run in record.runs if run.evaluation.loss_recovered is None]
    if without:
        measured = any(run.evaluation.ce_clean is not None for run in without)
        why = "zeros in place of the activations do no harm" if measured else "not measured"
        found.append(f"loss recovered of {', '.join(run.name for run in without)}: {why}")
    found += _missing_agreement(record.consistency)
    if explained.rho_partial is None:
        found.append(f"explanation rho: {unexplained(explained)}")
    elif explained.rho_partial_ci is None:
        two = "two runs make one pair: a confidence interval needs at least three runs"
        some = "a pair of runs has too few explained pairs of features"
        found.append(f"confidence interval of explanation rho: {two if len(record.runs) == 2 else some}")
    if explained.lift is None and explained.rho_partial is not None:
        found.append("lift: no other pair to compare with")
    if _detection(record) is None:
        found.append("detection: the explanations were not scored")
    return found


def _missing_agreement(record: ConsistencyRecord) -> list[str]:
    summary, found = record.summary, []
    if summary.ci_low is None:
        found.append(f"confidence interval of PW-MCC: {summary.ci_reason}")
    if summary.pw_mcc_alive is None:
        found.append(f"PW-MCC alive: {summary.alive_reason}")
    if summary.pw_mcc_signed is None:
        found.append(f"PW-MCC signed: {why_missing(summary, 'pw_mcc_signed')}")
    if summary.null_sign_flip is None:
        found.append(f"null and kappa are those of random directions: {why_missing(summary, 'null_sign_flip')}")
    if record.kappa is None:
        found.append("kappa: chance alone gives a PW-MCC of 1")
    if SHARED_AT not in summary.shared_fraction:
        found.append(f"shared features: {SHARED_AT} is not among the thresholds of the study")
    elif summary.shared_fraction_joint is None:
        found.append(f"shared features by decoder and encoder: {why_missing(summary, 'shared_fraction_joint')}")
    if summary.core is None:
        found.append(f"stable core: {why_missing(summary, 'core')}")
    elif core_level(summary, SHARED_AT) is None:
        found.append(f"stable core: not measured at {SHARED_AT}")
    return found


def core_level(found: ConsistencySummary, tau: str) -> CoreLevel | None:
    """The stable core of all runs at a threshold; None when it was not measured there."""
    levels = found.core.levels if found.core else []
    return next((level for level in levels if f"{level.tau:g}" == tau), None)


def why_missing(found: ConsistencySummary, field: str) -> str:
    """Why a field of the summary is None."""
    return found.not_measured.get(field, "not measured")


def unexplained(found: MeasureSummary) -> str:
    """How many matched pairs have a value of a measure, and why the others have none, the most frequent first."""
    what = "have a value" if found.explainer is None else "are explained on both sides"
    why = f" ({reasons(found.missing)})" if found.missing else ""
    return f"{found.n_used:,} of {found.n_asked:,} matched pairs {what}{why}"


def reasons(missing: Mapping[str, int]) -> str:
    """Counts with their reasons, the most frequent first."""
    ordered = sorted(missing.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {reason}" for reason, count in ordered)


def _joined(reasons: Sequence[str]) -> str | None:
    return SEPARATOR.join(reason.replace(SEPARATOR, ", ") for reason in reasons) or None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
