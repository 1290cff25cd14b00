"""Are consistent features explained alike? Every measure of similarity over the matched features, against decoys.

Place in the flow: consistency (matched pairs) + contexts + explanations -> **similarity** -> report.

The primary statistic is the partial Spearman correlation of |cosine| and similarity given log frequency: rare features
are less consistent *and* harder to explain, which alone would correlate the two.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from sae_core.chat.messages import ChatModel
from sae_core.config import SimilarityConfig
from sae_core.embeddings import Embed, embed_distinct
from sae_core.feature_contexts.contexts import FeatureContexts
from sae_core.progress import Progress, silent
from sae_core.similarity.activation_measure import ActivationMeasure
from sae_core.similarity.draws import draw_rows, even_shares, pair_rng
from sae_core.similarity.embedding_measure import EmbeddingMeasure
from sae_core.similarity.evaluate import evaluate
from sae_core.similarity.explained import Explained, read_explained
from sae_core.similarity.judge_measure import JudgeMeasure
from sae_core.similarity.matched_pairs import MatchedPairs, read_matches
from sae_core.similarity.measures import Measure
from sae_core.similarity.results import SimilarityReport, SimilaritySummary
from sae_core.similarity.summarise import pair_rows, summarise
from sae_core.similarity.word_measure import WordMeasure
from sae_core.whole_files import write_whole

_FLAT = {"rho_partial", "rho", "lift", "auc", "noise_ceiling", "n_used"}  # n_matched stands in the summary


def explanation_similarity(
    matches: pa.Table,
    contexts: Mapping[str, FeatureContexts],
    explanations: Mapping[str, Mapping[str, pa.Table]],
    asked: Mapping[str, pa.Table | None],
    chance: Mapping[tuple[str, str], float],
    embed: Embed,
    judge: ChatModel | None,
    config: SimilarityConfig,
    progress: Progress = silent,
    min_activations: int = 1,
) -> SimilarityReport:
    """Similarity of matched features by every measure, and what it has to do with their consistency.

    Args:
        matches: run_a, run_b, feature_a, feature_b, cosine (signed), alive_a, alive_b, frequency_a, frequency_b, as
            *consistency* writes them.
        contexts: of every run of ``matches``.
        explanations: for every explainer, by its name, and every run the table of its explanations. The embedding of
            the first explainer is the primary measure.
        asked: for every explainer the pairs that it was asked for (run_a, run_b, feature_a, feature_b); None: all.
        chance: for every pair of runs the cosine up to which a pair counts as below chance.
        embed: texts to vectors; they need not be of unit length.
        judge: rates ``config.n_judged`` of the pairs; None leaves that out.
        min_activations: a feature that fired less often (in a half, for its words) has neither words nor correlations
            to compare.

    Raises:
        ValueError: if a run lacks contexts or explanations, there is no pair or no explainer, a frequency or chance
            level is missing, or a pair asked for is not matched.
        ChatUnavailable: if too many requests of the judge failed.
    """
    pairs = read_matches(matches, chance)
    runs = list(dict.fromkeys(run for pair in pairs for run in (pair.run_a, pair.run_b)))
    if missing := [run for run in runs if run not in contexts]:
        raise ValueError(f"no contexts for {', '.join(missing)}; materialize the contexts of every run first")
    if not explanations:
        raise ValueError("expected the explanations of at least one explainer, got none")
    explained = [read_explained(name, tables, runs) for name, tables in explanations.items()]
    summaries, tables = [], []
    for measure in _measures(contexts, explained, runs, embed, judge, min_activations, progress):
        measured = evaluate(measure, pairs, _wanted(measure, pairs, asked, config), config, progress)
        summaries.append(summarise(measure, measured, runs, config))
        tables.append(pair_rows(measure, measured))
    summary = SimilaritySummary(
        n_runs=len(runs),
        n_matched=sum(len(pair.left) for pair in pairs),
        chance_cosine={f"{pair.run_a} and {pair.run_b}": pair.chance for pair in pairs},
        primary=summaries[0].measure,
        measures=summaries,
    )
    return SimilarityReport(summary, pa.concat_tables(tables))


def write_similarity(folder: Path, report: SimilarityReport) -> dict[str, Any]:
    """Write ``pairs.parquet`` and ``summary.json``.

    Returns:
        The summary as JSON values, and beside them the numbers of the primary measure.
    """
    summary = report.summary.model_dump(mode="json")
    write_whole(folder / "pairs.parquet", lambda part: pq.write_table(report.pairs, part))
    write_whole(folder / "summary.json", lambda part: part.write_text(json.dumps(summary, indent=1)))
    return {**summary, **report.summary.first.model_dump(mode="json", include=_FLAT)}


def _measures(
    contexts: Mapping[str, FeatureContexts],
    explained: Sequence[Explained],
    runs: Sequence[str],
    embed: Embed,
    judge: ChatModel | None,
    min_activations: int,
    progress: Progress,
) -> Iterator[Measure]:
    """All measures, the primary one first; each is made when its turn comes, and can be freed before the next."""
    for one in explained:
        yield _embedding(one, embed, progress)
    yield WordMeasure(contexts, runs, min_activations)
    yield ActivationMeasure(contexts, min_activations)
    if judge is not None:
        for one in explained:
            yield JudgeMeasure(one, judge)


def _embedding(explained: Explained, embed: Embed, progress: Progress) -> Measure:
    index, vectors = embed_distinct(list(explained.texts), embed, progress)
    return EmbeddingMeasure(explained, vectors[[index[text] for text in explained.texts]])


def _wanted(
    measure: Measure, pairs: Sequence[MatchedPairs], asked: Mapping[str, pa.Table | None], config: SimilarityConfig
) -> list[Int64[np.ndarray, " _"]]:
    """Which matched pairs of each pair of runs get a value of this measure."""
    table = None if measure.explainer is None else asked.get(measure.explainer)
    rows = [pair.rows_of(table) for pair in pairs]
    if table is not None and sum(map(len, rows)) != table.num_rows:
        raise ValueError(
            f"expected {table.num_rows} different pairs of these runs that {measure.explainer} was asked for, found "
            f"{sum(map(len, rows))}; draw the pairs again, from the present consistency"
        )
    if not measure.costly:
        return rows
    drawn = []
    for pair, own, share in zip(pairs, rows, even_shares(config.n_judged, len(pairs)), strict=True):
        alive = own[pair.alive[own]]
        rng = pair_rng(config.seed, pair.run_a, pair.run_b, "judged")
        drawn.append(alive[draw_rows(len(alive), share, rng)])
    return drawn
