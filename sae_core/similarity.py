"""Are consistent features explained alike? Similarity of the explanations of matched features, against decoys.

Place in the flow: consistency (matched pairs) + explanations -> **similarity** -> report. For a matched pair, run A's
explanation from one half of the text is compared with run B's from the other half, both ways, and averaged: the same
windows on both sides would make explanations alike for no reason of the features'.

The primary statistic is the partial Spearman correlation of |cosine| and similarity given log frequency: rare
features are less consistent *and* harder to explain, which alone would correlate the two.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sae_core.config import SimilarityConfig
from sae_core.consistency.statistics import Interval, jackknife
from sae_core.embeddings import Embed, embed_distinct
from sae_core.progress import Progress, silent
from sae_core.similarity_pairs import MatchedPairs, compare, index_explanations, self_similarity
from sae_core.similarity_results import RunPairSimilarity, SimilarityReport, SimilaritySummary
from sae_core.similarity_statistics import (
    auc,
    equal_count_bins,
    log_bins,
    mean,
    partial_spearman,
    spearman,
)
from sae_core.whole_files import write_whole


def explanation_similarity(
    matches: pa.Table,
    explanations: Mapping[str, pa.Table],
    embed: Embed,
    config: SimilarityConfig,
    progress: Progress = silent,
) -> SimilarityReport:
    """Similarity of the explanations of matched features, and what it has to do with their consistency.

    Args:
        matches: run_a, run_b, feature_a, feature_b, cosine (signed), alive_a, alive_b, frequency_a, frequency_b, as
            *consistency* writes them.
        explanations: for every run of ``matches``, the table that ``explain_run`` writes.
        embed: texts to vectors; they need not be of unit length.

    Raises:
        ValueError: if a run has no explanations, there is no pair, or ``matches`` has no frequencies.
    """
    runs = _check(matches, explanations)
    texts = sorted({text for run in runs for text in explanations[run]["explanation"].to_pylist() if text is not None})
    index, vectors = embed_distinct(texts, embed, progress)
    explained = {run: index_explanations(explanations[run], index) for run in runs}
    pairs = []
    for number, (run_a, run_b) in enumerate(_run_pairs(matches)):
        here = matches.filter((pc.field("run_a") == run_a) & (pc.field("run_b") == run_b))
        rng = np.random.default_rng([config.seed, number])
        pairs.append(compare(run_a, run_b, here, explained, vectors, config.n_decoys, rng))
    ceiling = [self_similarity(explained[run].row, vectors) for run in runs]
    return SimilarityReport(_summarise(runs, pairs, np.concatenate(ceiling)), _table(pairs))


def write_similarity(folder: Path, report: SimilarityReport) -> dict[str, Any]:
    """Write ``pairs.parquet`` and ``summary.json``; returns the summary as JSON values."""
    summary = report.summary.model_dump(mode="json")
    write_whole(folder / "pairs.parquet", lambda part: pq.write_table(report.pairs, part))
    write_whole(folder / "summary.json", lambda part: part.write_text(json.dumps(summary, indent=1)))
    return summary


def _check(matches: pa.Table, explanations: Mapping[str, pa.Table]) -> list[str]:
    """The names of the runs, in the order of the matches."""
    if matches.num_rows == 0:
        raise ValueError("expected at least one matched pair, got none; compute consistency of two or more runs first")
    runs = list(dict.fromkeys(name for pair in _run_pairs(matches) for name in pair))
    if missing := [run for run in runs if run not in explanations]:
        raise ValueError(f"no explanations for {', '.join(missing)}; materialize the explanations of every run first")
    for column in ("frequency_a", "frequency_b", "alive_a", "alive_b"):
        if matches[column].null_count:
            raise ValueError(
                f"matches lack {column}: expected a value for every pair; evaluate the runs on held-out tokens, so "
                "that consistency knows how often each feature fires"
            )
    return runs


def _run_pairs(matches: pa.Table) -> list[tuple[str, str]]:
    groups = matches.select(["run_a", "run_b"]).group_by(["run_a", "run_b"], use_threads=False).aggregate([])
    return [(row["run_a"], row["run_b"]) for row in groups.to_pylist()]


def _summarise(runs: Sequence[str], pairs: Sequence[MatchedPairs], own: np.ndarray) -> SimilaritySummary:
    found = [_statistics(pair) for pair in pairs]
    used = [pair.used for pair in pairs]
    cosine = np.concatenate([np.abs(pair.cosine[u]) for pair, u in zip(pairs, used, strict=True)])
    similarity = np.concatenate([pair.similarity[u] for pair, u in zip(pairs, used, strict=True)])
    decoy = np.concatenate([pair.mean_decoy[u] for pair, u in zip(pairs, used, strict=True)])
    missing = Counter(reason for pair in pairs for reason in pair.reason if reason is not None)
    return SimilaritySummary(
        rho_partial=_mean_of(found, "rho_partial"),
        rho_partial_ci=_interval(runs, found, "rho_partial"),
        rho=_mean_of(found, "rho"),
        rho_ci=_interval(runs, found, "rho"),
        lift=_mean_of(found, "lift"),
        lift_ci=_interval(runs, found, "lift"),
        auc=_mean_of(found, "auc"),
        mean_similarity=_mean_of(found, "mean_similarity"),
        mean_decoy=_mean_of(found, "mean_decoy"),
        noise_ceiling=mean(own),
        n_runs=len(runs),
        n_matched=sum(len(pair.left) for pair in pairs),
        n_used=len(cosine),
        missing=dict(sorted(missing.items())),
        equal_count_bins=equal_count_bins(cosine, similarity, decoy),
        log_bins=log_bins(cosine, similarity, decoy),
        run_pairs=found,
    )


def _statistics(pair: MatchedPairs) -> RunPairSimilarity:
    used = pair.used
    cosine, similarity = np.abs(pair.cosine[used]), pair.similarity[used]
    matched, decoy = mean(similarity), mean(pair.mean_decoy[used])
    decoys = pair.decoy[used].ravel()
    return RunPairSimilarity(
        run_a=pair.run_a,
        run_b=pair.run_b,
        n_matched=len(used),
        n_used=int(used.sum()),
        rho_partial=partial_spearman(cosine, similarity, pair.frequency[used]),  # ranks: the log changes nothing
        rho=spearman(cosine, similarity),
        mean_similarity=matched,
        mean_decoy=decoy,
        lift=None if matched is None or decoy is None else matched - decoy,
        auc=auc(similarity, decoys[~np.isnan(decoys)]),
    )


def _mean_of(found: Sequence[RunPairSimilarity], name: str) -> float | None:
    values = [getattr(pair, name) for pair in found]
    return mean(np.array([value for value in values if value is not None], dtype=np.float64))


def _interval(runs: Sequence[str], found: Sequence[RunPairSimilarity], name: str) -> Interval | None:
    values = np.full((len(runs), len(runs)), np.nan)
    for pair in found:
        value = getattr(pair, name)
        i, j = runs.index(pair.run_a), runs.index(pair.run_b)
        values[i, j] = values[j, i] = np.nan if value is None else value
    if any(np.isnan(values[i, j]) for i, j in combinations(range(len(runs)), 2)):
        return None
    return jackknife(values)


def _table(pairs: Sequence[MatchedPairs]) -> pa.Table:
    tables = []
    for pair in pairs:
        columns = {
            "run_a": pa.array([pair.run_a] * len(pair.left), pa.string()),
            "run_b": pa.array([pair.run_b] * len(pair.left), pa.string()),
            "feature_a": pa.array(pair.left, pa.int64()),
            "feature_b": pa.array(pair.right, pa.int64()),
            "cosine": pa.array(pair.cosine, pa.float64()),
            "frequency": pa.array(pair.frequency, pa.float64()),
            "similarity": pa.array(pair.similarity, pa.float64(), from_pandas=True),
            "decoy_similarity": pa.array(pair.mean_decoy, pa.float64(), from_pandas=True),
            "missing_reason": pa.array(pair.reason, pa.string()),
        }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)
