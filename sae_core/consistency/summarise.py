"""The summary of *consistency*: one number each, from everything that was found about pairs of runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from sae_core.config import ConsistencyConfig
from sae_core.consistency.consensus_summary import ConsensusSummary
from sae_core.consistency.core_sizes import CoreSummary
from sae_core.consistency.duplicates import Duplicates
from sae_core.consistency.frequency_bins import collect_matches, equal_count_bins, log_bins
from sae_core.consistency.initialisation import Initialisation
from sae_core.consistency.nulls import chance_corrected, mean_null_mcc, null_mmcs
from sae_core.consistency.pairs import NullDraws, RunPair, histogram_edges
from sae_core.consistency.results import ConsistencySummary, CosineHistogram
from sae_core.consistency.runs import Run
from sae_core.consistency.statistics import jackknife, pair_mean

_NULL_IS_ONE = "the null is 1, nothing can be above it"


@dataclass(frozen=True)
class Beyond:
    """What concerns all runs together."""

    initialisation: Initialisation
    cycle_consistency: float | None
    core: CoreSummary | None
    consensus: ConsensusSummary | None


def summarise(
    runs: Sequence[Run],
    pairs: Sequence[RunPair],
    duplicates: Sequence[Duplicates] | None,
    beyond: Beyond,
    config: ConsistencyConfig,
) -> ConsistencySummary:
    """All numbers, and for those that are missing why."""
    fields = (
        _sizes(runs, pairs)
        | _values(runs, pairs)
        | _similarities(pairs, config)
        | _chance(runs, pairs, beyond.initialisation, config.seed)
        | _bins(runs, pairs, config)
        | {
            "cycle_consistency": beyond.cycle_consistency,
            "n_duplicates": None if duplicates is None else [found.n_duplicates for found in duplicates],
            "uniqueness": None if duplicates is None else [found.uniqueness for found in duplicates],
            "core": beyond.core,
            "consensus": beyond.consensus,
            "certified": all(pair.certified for pair in pairs) and not beyond.initialisation.stopped,
            "upper_bound": float(np.mean([pair.absolute.upper_bound for pair in pairs])),
            "stopped": _stopped(runs, pairs) + beyond.initialisation.stopped,
        }
    )
    fields["kappa_isotropic"] = _kappa(fields["pw_mcc"], fields["null_isotropic"])
    fields["kappa_second_moment"] = _kappa(fields["pw_mcc"], fields["null_second_moment"])
    fields["kappa_sign_flip"] = _kappa(fields["pw_mcc"], fields["null_sign_flip"])
    reasons = _reasons(runs, fields, beyond.initialisation, config)
    return ConsistencySummary(**fields, not_measured={name: reasons[name] for name in reasons if fields[name] is None})


def _sizes(runs: Sequence[Run], pairs: Sequence[RunPair]) -> dict[str, Any]:
    zero_rows = {p.a: p.absolute.n_excluded_left for p in pairs} | {p.b: p.absolute.n_excluded_right for p in pairs}
    n_alive = [int(run.alive.sum()) for run in runs if run.alive is not None]
    return {
        "runs": [run.name for run in runs],
        "n_runs": len(runs),
        "n_pairs": len(pairs),
        "d_in": runs[0].W_dec.shape[1],
        "d_sae": min(len(run.W_dec) for run in runs),
        "n_features": [len(run.W_dec) for run in runs],
        "n_zero_rows": [zero_rows[run] for run in range(len(runs))],
        "n_alive": n_alive if len(n_alive) == len(runs) else None,
    }


def _values(runs: Sequence[Run], pairs: Sequence[RunPair]) -> dict[str, Any]:
    """PW-MCC, its interval and its variants."""
    mccs = _pair_matrix(len(runs), pairs, [pair.absolute.mcc for pair in pairs])
    interval = jackknife(mccs)
    alive, alive_reason = _alive_value(runs, pairs)
    return {
        "pw_mcc": pair_mean(mccs),
        "ci_low": None if interval is None else interval.low,
        "ci_high": None if interval is None else interval.high,
        "standard_error": None if interval is None else interval.standard_error,
        "ci_reason": None if interval else "two runs make one pair: a confidence interval needs at least three runs",
        "pw_mcc_signed": _mean(pairs, lambda pair: None if pair.signed is None else pair.signed.mcc),
        "pw_mcc_alive": alive,
        "alive_reason": alive_reason,
        "pw_mcc_merged": _mean(pairs, lambda pair: None if pair.merged is None else pair.merged.mcc),
    }


def _similarities(pairs: Sequence[RunPair], config: ConsistencyConfig) -> dict[str, Any]:
    """Shares of matched features, and means that are not PW-MCC."""
    cosines = np.concatenate([pair.absolute.cosine for pair in pairs])
    joint = [pair.joint for pair in pairs if pair.joint is not None]
    shared_joint, shared_both = None, None
    if len(joint) == len(pairs):
        shared_joint = _shares(np.concatenate([found.matching.score for found in joint]), config.thresholds)
        both = [np.sign(found.matching.cosine) * (found.decoder_cosine, found.encoder_cosine) for found in joint]
        shared_both = _shares(np.concatenate(both, axis=1).min(axis=0), config.thresholds)
    return {
        "share_negative": float((cosines < 0).mean()),
        "mmcs_forward": float(np.mean([np.nanmean(pair.absolute.best_left) for pair in pairs])),
        "mmcs_backward": float(np.mean([np.nanmean(pair.absolute.best_right) for pair in pairs])),
        "shared_fraction": _shares(np.abs(cosines), config.thresholds),
        "joint_mean": _mean(pairs, lambda pair: None if pair.joint is None else pair.joint.matching.mcc),
        "shared_fraction_joint": shared_joint,
        "shared_fraction_both": shared_both,
    }


def _chance(runs: Sequence[Run], pairs: Sequence[RunPair], initialisation: Initialisation, seed: int) -> dict[str, Any]:
    d_in = runs[0].W_dec.shape[1]
    nulls: dict[str, list[NullDraws | None]] = {
        "null_second_moment": [pair.second_moment for pair in pairs],
        "null_sign_flip": [pair.sign_flip for pair in pairs],
    }
    fields: dict[str, Any] = {
        "null_isotropic": mean_null_mcc([pair.n_with_direction for pair in pairs], d_in, seed),
        "null_mmcs_isotropic": float(np.mean([[null_mmcs(n, d_in) for n in p.n_with_direction] for p in pairs])),
        "null_untrained": initialisation.untrained,
        "shared_initialisation": initialisation.shared,
        "shared_initialisation_reason": initialisation.reason,
        "n_same_index": initialisation.n_same_index,
        "n_same_index_expected": initialisation.n_same_index_expected,
        "same_index_p": initialisation.same_index_p,
    }
    for name, draws in nulls.items():
        known = [null for null in draws if null is not None]
        fields[name] = float(np.mean([null.mcc for null in known])) if known else None
        fields[f"{name}_upper_bound"] = float(np.mean([null.upper_bound for null in known])) if known else None
    return fields


def _bins(runs: Sequence[Run], pairs: Sequence[RunPair], config: ConsistencyConfig) -> dict[str, Any]:
    edges = histogram_edges(config.n_histogram_bins)
    cosines = np.concatenate([np.abs(pair.absolute.cosine) for pair in pairs])
    nulls = [pair.sign_flip.counts for pair in pairs if pair.sign_flip is not None]
    matches = collect_matches(runs, {(pair.a, pair.b): pair.absolute for pair in pairs})
    return {
        "histogram": CosineHistogram(
            edges=edges.tolist(),
            counts=np.histogram(cosines, edges)[0].tolist(),
            null_counts=np.sum(nulls, axis=0).tolist() if nulls else None,
        ),
        "frequency_bins": None if matches is None else log_bins(matches, config.n_frequency_bins),
        "frequency_bins_equal": None if matches is None else equal_count_bins(matches, config.n_frequency_bins),
    }


def _reasons(
    runs: Sequence[Run], fields: dict[str, Any], initialisation: Initialisation, config: ConsistencyConfig
) -> dict[str, str]:
    """For every field that may be None, why it is if it is."""
    no_frequency = _without(runs, "frequencies", lambda run: run.frequency is None)
    joint = _without(runs, "encoder", lambda run: run.W_enc is None) if config.joint else "switched off (joint: false)"
    draws = _NULL_IS_ONE if config.n_null_draws else "switched off (n_null_draws: 0)"
    merged, interval = "switched off (merged: false)", fields["ci_reason"] or ""
    return {
        "n_alive": no_frequency,
        "ci_low": interval,
        "ci_high": interval,
        "standard_error": interval,
        "pw_mcc_signed": "switched off (signed: false)",
        "pw_mcc_alive": fields["alive_reason"] or "",
        "pw_mcc_merged": merged,
        "joint_mean": joint,
        "shared_fraction_joint": joint,
        "shared_fraction_both": joint,
        "cycle_consistency": "two runs make no way round" if len(runs) == 2 else "no feature has partners all round",
        "null_second_moment": draws,
        "null_second_moment_upper_bound": draws,
        "null_untrained": initialisation.untrained_reason or "",
        "null_sign_flip": draws,
        "null_sign_flip_upper_bound": draws,
        "kappa_isotropic": _NULL_IS_ONE,
        "kappa_second_moment": draws,
        "kappa_sign_flip": draws,
        "n_duplicates": merged,
        "uniqueness": merged,
        "core": "switched off (core: false)",
        "consensus": "switched off (consensus: false)",
        "frequency_bins": no_frequency,
        "frequency_bins_equal": no_frequency,
    }


def _without(runs: Sequence[Run], what: str, missing: Callable[[Run], bool]) -> str:
    return f"no {what} for {', '.join(run.name for run in runs if missing(run))}"


def _mean(pairs: Sequence[RunPair], value: Callable[[RunPair], float | None]) -> float | None:
    """Mean over the pairs of runs; None when one of them has no value."""
    known = [found for found in map(value, pairs) if found is not None]
    return float(np.mean(known)) if len(known) == len(pairs) else None


def _shares(values: Float64[np.ndarray, " n"], thresholds: Sequence[float]) -> dict[str, float]:
    return {f"{tau:g}": float((values >= tau).mean()) for tau in thresholds}


def _pair_matrix(n_runs: int, pairs: Sequence[RunPair], values: Sequence[float]) -> Float64[np.ndarray, "s s"]:
    matrix = np.full((n_runs, n_runs), np.nan)
    for pair, value in zip(pairs, values, strict=True):
        matrix[pair.a, pair.b] = matrix[pair.b, pair.a] = value
    return matrix


def _kappa(value: float, null: float | None) -> float | None:
    return chance_corrected(value, null) if null is not None and null < 1 - 1e-9 else None


def _alive_value(runs: Sequence[Run], pairs: Sequence[RunPair]) -> tuple[float | None, str | None]:
    if any(run.alive is None for run in runs):
        return None, _without(runs, "frequencies", lambda run: run.alive is None)
    values = [pair.alive.mcc for pair in pairs if pair.alive is not None]
    if len(values) < len(pairs):
        dead = [run.name for run in runs if run.alive is not None and not np.asarray(run.W_dec)[run.alive].any()]
        return None, f"no alive feature with a direction in {', '.join(dead)}"
    return float(np.mean(values)), None


def _stopped(runs: Sequence[Run], pairs: Sequence[RunPair]) -> list[str]:
    return [f"{runs[pair.a].name} and {runs[pair.b].name}, {what}" for pair in pairs for what in pair.stopped]
