"""The statistics of one measure: of every pair of runs, over them, and in bins of the cosine."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from sae_core.config import SimilarityConfig
from sae_core.consistency.statistics import Interval, jackknife
from sae_core.similarity.draws import pair_rng
from sae_core.similarity.evaluate import Measured
from sae_core.similarity.measures import Measure
from sae_core.similarity.permutation import combined_p, permutation_test
from sae_core.similarity.results import MeasureSummary, RunPairSimilarity
from sae_core.similarity.statistics import auc, equal_count_bins, log_bins, mean, partial_spearman, spearman


def summarise(
    measure: Measure, measured: Sequence[Measured], runs: Sequence[str], config: SimilarityConfig
) -> MeasureSummary:
    """The summary of one measure.

    Args:
        measured: of every pair of runs.
        runs: all of them.
    """
    found = [_statistics(one, config) for one in measured]
    cosine = np.concatenate([np.abs(one.pairs.cosine[one.rows[one.used]]) for one in measured])
    similarity = np.concatenate([one.similarity[one.used] for one in measured])
    decoy = np.concatenate([one.mean_decoy[one.used] for one in measured])
    above = [one.pairs.above_chance[one.rows] for one in measured]
    missing = Counter(str(reason) for one in measured for reason in one.reason[~one.used])
    return MeasureSummary(
        measure=measure.name,
        kind=measure.kind,
        explainer=measure.explainer,
        rho_partial=_mean_of(found, "rho_partial"),
        rho_partial_ci=_interval(runs, found, "rho_partial"),
        permutation_p=combined_p([one.permutation_p for one in found if one.permutation_p is not None]),
        rho_partial_permuted=_mean_of(found, "rho_partial_permuted"),
        rho=_mean_of(found, "rho"),
        rho_ci=_interval(runs, found, "rho"),
        rho_partial_above_chance=_mean_known(
            [_rho_partial(m, m.used & a) for m, a in zip(measured, above, strict=True)]
        ),
        lift=_mean_of(found, "lift"),
        lift_ci=_interval(runs, found, "lift"),
        auc=_mean_of(found, "auc"),
        auc_shuffled=_mean_of(found, "auc_shuffled"),
        mean_similarity=_mean_of(found, "mean_similarity"),
        mean_decoy=_mean_of(found, "mean_decoy"),
        mean_similarity_below_chance=_mean_known(
            [mean(m.similarity[m.used & ~a]) for m, a in zip(measured, above, strict=True)]
        ),
        noise_ceiling=measure.ceiling(_features_used(measured)),
        n_asked=sum(len(one.rows) for one in measured),
        n_used=len(cosine),
        n_below_chance=sum(int((m.used & ~a).sum()) for m, a in zip(measured, above, strict=True)),
        missing=dict(sorted(missing.items())),
        equal_count_bins=equal_count_bins(cosine, similarity, decoy),
        log_bins=log_bins(cosine, similarity, decoy),
        run_pairs=found,
    )


def pair_rows(measure: Measure, measured: Sequence[Measured]) -> pa.Table:
    """The rows of ``SimilarityReport.pairs`` of one measure."""
    return pa.concat_tables(_rows(measure.name, one) for one in measured)


def _statistics(one: Measured, config: SimilarityConfig) -> RunPairSimilarity:
    used, pairs = one.used, one.pairs
    rows = one.rows[used]
    cosine, similarity, mean_decoy = np.abs(pairs.cosine[rows]), one.similarity[used], one.mean_decoy[used]
    decoys = one.decoy[used].ravel()
    decoys, shuffled = decoys[~np.isnan(decoys)], one.shuffled[~np.isnan(one.shuffled)]
    test = permutation_test(
        cosine,
        similarity,
        pairs.frequency[rows],
        config.n_strata,
        config.n_permutations,
        pair_rng(config.seed, pairs.run_a, pairs.run_b, "permutations"),
    )
    return RunPairSimilarity(
        run_a=pairs.run_a,
        run_b=pairs.run_b,
        n_used=len(rows),
        rho_partial=_rho_partial(one, used),
        rho=spearman(cosine, similarity),
        mean_similarity=mean(similarity),
        mean_decoy=mean(mean_decoy),
        lift=mean(similarity - mean_decoy),
        auc=auc(similarity, decoys),
        auc_shuffled=auc(shuffled, decoys),
        permutation_p=None if test is None else test.p_value,
        rho_partial_permuted=None if test is None else test.mean,
    )


def _rho_partial(one: Measured, which: np.ndarray) -> float | None:
    """Among some of the pairs. Of the frequency only the ranks count, so that the logarithm would change nothing."""
    rows = one.rows[which]
    return partial_spearman(np.abs(one.pairs.cosine[rows]), one.similarity[which], one.pairs.frequency[rows])


def _features_used(measured: Sequence[Measured]) -> dict[str, Int64[np.ndarray, " _"]]:
    """The features of each run that are in a pair with a similarity, each once."""
    found: dict[str, list[np.ndarray]] = {}
    for one in measured:
        rows = one.rows[one.used]
        found.setdefault(one.pairs.run_a, []).append(one.pairs.left[rows])
        found.setdefault(one.pairs.run_b, []).append(one.pairs.right[rows])
    return {run: np.unique(np.concatenate(parts)) for run, parts in found.items()}


def _mean_known(values: Sequence[float | None]) -> float | None:
    return mean(np.array([value for value in values if value is not None], dtype=np.float64))


def _mean_of(found: Sequence[RunPairSimilarity], name: str) -> float | None:
    return _mean_known([getattr(pair, name) for pair in found])


def _interval(runs: Sequence[str], found: Sequence[RunPairSimilarity], name: str) -> Interval | None:
    values = np.full((len(runs), len(runs)), np.nan)
    for pair in found:
        value = getattr(pair, name)
        i, j = runs.index(pair.run_a), runs.index(pair.run_b)
        values[i, j] = values[j, i] = np.nan if value is None else value
    if any(np.isnan(values[i, j]) for i, j in combinations(range(len(runs)), 2)):
        return None
    return jackknife(values)


def _rows(name: str, one: Measured) -> pa.Table:
    pairs, rows = one.pairs, one.rows
    columns: Mapping[str, pa.Array] = {
        "measure": pa.array([name] * len(rows), pa.string()),
        "run_a": pa.array([pairs.run_a] * len(rows), pa.string()),
        "run_b": pa.array([pairs.run_b] * len(rows), pa.string()),
        "feature_a": pa.array(pairs.left[rows], pa.int64()),
        "feature_b": pa.array(pairs.right[rows], pa.int64()),
        "cosine": pa.array(pairs.cosine[rows], pa.float64()),
        "frequency": pa.array(pairs.frequency[rows], pa.float64()),
        "above_chance": pa.array(pairs.above_chance[rows], pa.bool_()),
        "similarity": pa.array(one.similarity, pa.float64(), from_pandas=True),
        "decoy_similarity": pa.array(one.mean_decoy, pa.float64(), from_pandas=True),
        "missing_reason": pa.array(one.reason.tolist(), pa.string()),
    }
    return pa.table(columns)
