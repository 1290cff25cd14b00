"""Consistency: how far independently trained runs of one variant found the same features.

Third stage of the flow: the decoders of all seeds are matched pair by pair (:mod:`sae_core.matching`), set beside
what chance would score (:mod:`sae_core.nulls`), and given an interval over seeds (:mod:`sae_core.statistics`).
The matches go on to the comparison of explanations.
"""

import json
import os
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float
from torch import Tensor

from sae_core.config import ConsistencyConfig
from sae_core.consistency_results import ConsistencyReport, ConsistencySummary, CosineHistogram, FrequencyBin
from sae_core.consistency_tables import (
    Run,
    RunPair,
    feature_table,
    frequency_bins,
    histogram_edges,
    match_table,
    pair_table,
)
from sae_core.matching import Matching, match
from sae_core.nulls import chance_corrected, null_mcc, null_mmcs, sign_flip_matchings, sign_flip_null
from sae_core.progress import Progress, silent
from sae_core.statistics import Interval, jackknife, pair_mean

__all__ = [
    "ConsistencyReport",
    "ConsistencySummary",
    "CosineHistogram",
    "FrequencyBin",
    "Interval",
    "Run",
    "chance_corrected",
    "consistency",
    "jackknife",
    "null_mcc",
    "null_mmcs",
    "pw_mcc",
    "sign_flip_null",
    "write_consistency",
]


def pw_mcc(dictionaries: Sequence[Float[Tensor | np.ndarray, "_ _"]], signed: bool = False) -> float:
    """Mean MCC over all unordered pairs of dictionaries, in [0, 1] (Song et al. 2025, eq. 3).

    MCC is the mean absolute cosine under the best one-to-one matching of rows. Rows of zeros are left out.

    Args:
        dictionaries: decoders, one feature a row, all of the same width.
        signed: use the cosine itself, as the paper's released code does; then in [-1, 1].

    Raises:
        ValueError: for fewer than two dictionaries, different widths, or a row that is not finite; the message names
            the run (by its place in the sequence) and the row.
    """
    if len(dictionaries) < 2:
        raise ValueError(f"PW-MCC compares runs: at least two are needed, got {len(dictionaries)}; train another seed")
    named = [(f"run {number}", W) for number, W in enumerate(dictionaries)]
    return float(np.mean([match(a, b, signed, names=(x, y)).mcc for (x, a), (y, b) in combinations(named, 2)]))


def consistency(
    runs: Sequence[Run], config: ConsistencyConfig | None = None, progress: Progress = silent
) -> ConsistencyReport:
    """Compare all pairs of runs: PW-MCC with its variants, chance levels, interval, histogram, and tables.

    Args:
        runs: at least two, of the same ``d_in``; with ``frequency`` given, alive features are compared too.
        config: thresholds, draws and seed of the nulls; None takes the defaults.
        progress: called before every matching.

    Raises:
        ValueError: for fewer than two runs, names given twice, different widths, or a row that is not finite (the
            message names run and row).
    """
    config = config or ConsistencyConfig()
    _check_runs(runs)
    indices = list(combinations(range(len(runs)), 2))
    per_pair = 3 + config.n_null_draws
    pairs = []
    for number, (a, b) in enumerate(indices):

        def step(done: int, what: str, number: int = number, a: int = a, b: int = b) -> None:
            text = f"{runs[a].name} and {runs[b].name}: {what}"
            progress(number * per_pair + done, len(indices) * per_pair, text)

        pairs.append(_compare(runs, a, b, number, config, step))
    progress(len(indices) * per_pair, len(indices) * per_pair, f"{len(indices)} pairs of runs compared")
    return ConsistencyReport(
        summary=_summary(runs, pairs, config),
        pairs=pair_table(runs, pairs),
        matches=match_table(runs, pairs),
        features=feature_table(runs, pairs, config.thresholds),
    )


def write_consistency(folder: Path, report: ConsistencyReport) -> dict[str, Any]:
    """Write ``pairs.parquet``, ``matches.parquet``, ``features.parquet`` and ``summary.json`` into a folder.

    Returns:
        What ``summary.json`` holds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables: dict[str, pa.Table] = {"pairs": report.pairs, "matches": report.matches, "features": report.features}
    for name, table in tables.items():
        part = folder / f"{name}.parquet.part"
        pq.write_table(table, part)
        os.replace(part, folder / f"{name}.parquet")
    summary = report.summary.model_dump(mode="json")
    part = folder / "summary.json.part"
    part.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(part, folder / "summary.json")
    return summary


def _check_runs(runs: Sequence[Run]) -> None:
    if len(runs) < 2:
        raise ValueError(f"consistency compares runs: at least two are needed, got {len(runs)}; train another seed")
    names = [run.name for run in runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"run names must differ: {', '.join(twice)} given more than once; rename one")


def _compare(
    runs: Sequence[Run], a: int, b: int, number: int, config: ConsistencyConfig, step: Callable[[int, str], None]
) -> RunPair:
    left, right, names = runs[a], runs[b], (runs[a].name, runs[b].name)
    step(0, "matching all features")
    absolute = match(left.W_dec, right.W_dec, names=names)
    step(1, "matching with signs")
    signed = match(left.W_dec, right.W_dec, signed=True, names=names)
    step(2, "matching alive features")
    alive = _match_alive(left, right)
    null_mccs, null_counts, certified = [], np.zeros(config.n_histogram_bins), absolute.certified and signed.certified
    seed = int(np.random.SeedSequence([config.seed, number]).generate_state(1)[0])
    for draw, null in enumerate(sign_flip_matchings(left.W_dec, right.W_dec, config.n_null_draws, seed)):
        step(3 + draw, f"null draw {draw + 1} of {config.n_null_draws}")
        null_mccs.append(null.mcc)
        null_counts += np.histogram(null.score, histogram_edges(config.n_histogram_bins))[0]
        certified = certified and null.certified
    return RunPair(
        a=a,
        b=b,
        absolute=absolute,
        signed=signed,
        alive=alive,
        null_sign_flip=float(np.mean(null_mccs)),
        null_counts=null_counts / config.n_null_draws,
        certified=certified and (alive is None or alive.certified),
    )


def _match_alive(left: Run, right: Run) -> Matching | None:
    if left.alive is None or right.alive is None:
        return None
    W_a, W_b = left.W_dec[left.alive], right.W_dec[right.alive]
    if not (W_a != 0).any() or not (W_b != 0).any():
        return None
    return match(W_a, W_b, names=(f"{left.name} (alive features)", f"{right.name} (alive features)"))


def _pair_matrix(n_runs: int, pairs: Sequence[RunPair], values: Sequence[float]) -> Float[np.ndarray, "s s"]:
    matrix = np.full((n_runs, n_runs), np.nan)
    for pair, value in zip(pairs, values, strict=True):
        matrix[pair.a, pair.b] = matrix[pair.b, pair.a] = value
    return matrix


def _summary(runs: Sequence[Run], pairs: Sequence[RunPair], config: ConsistencyConfig) -> ConsistencySummary:
    cosines = np.concatenate([pair.absolute.cosine for pair in pairs])
    alive_value, alive_reason = _alive_value(runs, pairs)
    edges = histogram_edges(config.n_histogram_bins)
    zero_rows = {p.a: p.absolute.n_excluded_left for p in pairs} | {p.b: p.absolute.n_excluded_right for p in pairs}
    return ConsistencySummary(
        runs=[run.name for run in runs],
        n_runs=len(runs),
        n_pairs=len(pairs),
        d_in=runs[0].W_dec.shape[1],
        d_sae=min(len(run.W_dec) for run in runs),
        n_features=[len(run.W_dec) for run in runs],
        n_zero_rows=[zero_rows[run] for run in range(len(runs))],
        n_alive=_alive_counts(runs),
        **_value_and_chance(runs, pairs, config.seed),
        pw_mcc_signed=float(np.mean([pair.signed.mcc for pair in pairs])),
        pw_mcc_alive=alive_value,
        alive_reason=alive_reason,
        share_negative=float((cosines < 0).mean()),
        mmcs_forward=float(np.mean([np.nanmean(pair.absolute.best_left) for pair in pairs])),
        mmcs_backward=float(np.mean([np.nanmean(pair.absolute.best_right) for pair in pairs])),
        shared_fraction={f"{tau:g}": float((np.abs(cosines) >= tau).mean()) for tau in config.thresholds},
        certified=all(pair.certified for pair in pairs),
        upper_bound=float(np.mean([pair.absolute.upper_bound for pair in pairs])),
        histogram=CosineHistogram(
            edges=edges.tolist(),
            counts=np.histogram(np.abs(cosines), edges)[0].tolist(),
            null_counts=np.sum([pair.null_counts for pair in pairs], axis=0).tolist(),
        ),
        frequency_bins=frequency_bins(runs, pairs, config.n_frequency_bins),
    )


def _value_and_chance(runs: Sequence[Run], pairs: Sequence[RunPair], seed: int) -> dict[str, Any]:
    """The fields of the summary for PW-MCC, its interval, its chance levels and the values corrected for them."""
    mccs, d_in = _pair_matrix(len(runs), pairs, [pair.absolute.mcc for pair in pairs]), runs[0].W_dec.shape[1]
    value, interval = pair_mean(mccs), jackknife(mccs)
    null_isotropic = _null_isotropic(pairs, d_in, seed)
    null_sign_flip = float(np.mean([pair.null_sign_flip for pair in pairs]))
    return {
        "pw_mcc": value,
        "ci_low": None if interval is None else interval.low,
        "ci_high": None if interval is None else interval.high,
        "standard_error": None if interval is None else interval.standard_error,
        "ci_reason": None if interval else "two runs make one pair: a confidence interval needs at least three runs",
        "null_isotropic": null_isotropic,
        "null_sign_flip": null_sign_flip,
        "null_mmcs_isotropic": _null_mmcs(pairs, d_in),
        "kappa_isotropic": _kappa(value, null_isotropic),
        "kappa_sign_flip": _kappa(value, null_sign_flip),
    }


def _kappa(value: float, null: float) -> float | None:
    return chance_corrected(value, null) if null < 1 - 1e-9 else None


def _null_isotropic(pairs: Sequence[RunPair], d_in: int, seed: int) -> float:
    sizes = [tuple(sorted(pair.n_with_direction)) for pair in pairs]
    known = {size: null_mcc(size[0], d_in, size[1], seed) for size in sorted(set(sizes))}
    return float(np.mean([known[size] for size in sizes]))


def _null_mmcs(pairs: Sequence[RunPair], d_in: int) -> float:
    return float(np.mean([np.mean([null_mmcs(n, d_in) for n in pair.n_with_direction]) for pair in pairs]))


def _alive_counts(runs: Sequence[Run]) -> list[int] | None:
    counts = [int(run.alive.sum()) for run in runs if run.alive is not None]
    return counts if len(counts) == len(runs) else None


def _alive_value(runs: Sequence[Run], pairs: Sequence[RunPair]) -> tuple[float | None, str | None]:
    unknown = [run.name for run in runs if run.alive is None]
    if unknown:
        return None, f"no frequencies for {', '.join(unknown)}"
    values = [pair.alive.mcc for pair in pairs if pair.alive is not None]
    if len(values) < len(pairs):
        dead = [run.name for run in runs if run.alive is not None and not np.asarray(run.W_dec)[run.alive].any()]
        return None, f"no alive feature with a direction in {', '.join(dead)}"
    return float(np.mean(values)), None
