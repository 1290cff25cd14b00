"""From the records of a variant to the panels about its explanations.

Part of *report*; the drawing itself is in :mod:`sae_core.report.explanation_figures`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from sae_core.report.figures import (
    MAX_SERIES,
    BinBeside,
    Cloud,
    DotRow,
    EmptyPanel,
    Panel,
    RangeRow,
    Values,
    cloud_panel,
    dots_panel,
    published_panel,
    ranges_panel,
)
from sae_core.report.panels import NamedPanel, column
from sae_core.report.published_bins import beside_published
from sae_core.report.records import SimilarityRecord, VariantRecord
from sae_core.report.score_numbers import mean_of_medians
from sae_core.report.table import unexplained
from sae_core.similarity.results import MeasureSummary
from sae_core.similarity.statistics import SimilarityBin

_Y_LABELS = {
    "embedding": "similarity of explanations",
    "judge": "rating of a model, 1 to 10",
    "words": "overlap of the words they fire on",
    "activations": "|correlation| of activations",
}
_SCORES = {
    "detection (balanced accuracy)": "detection_balanced_accuracy",
    "fuzzing (balanced accuracy)": "fuzzing_balanced_accuracy",
    "embedding (AUC)": "embedding_auc",
}
_BY_NEGATIVES = {
    "random": "detection_auc_random",
    "about a token it fires on elsewhere": "detection_auc_same_token",
    "nearest": "detection_auc_near",
}


def explanation_panels(record: VariantRecord, max_points: int = 250) -> list[NamedPanel]:
    """Whether consistent features of one variant mean the same, by the primary measure first."""
    found = record.similarity
    return [
        NamedPanel(
            "similarity",
            similarity_cloud(found, max_points),
            f"{record.key}: how alike two matched features are explained, by their cosine. Line: bins of equally many "
            "pairs; points: some of the pairs, evenly spaced over the cosine; grey: random pairs of equal frequency.",
        ),
        NamedPanel(
            "published",
            published_bins(found),
            f"{record.key}: the same in the bins of Song et al. 2025, with their ratings. Another model rated other "
            "explanations there: compare where it rises, not how high it stands.",
        ),
        NamedPanel(
            "measures",
            correlations(found),
            f"{record.key}: rank correlation of cosine and similarity, by every measure. Filled: frequency held "
            "constant; hollow: not, so that frequency alone can make it large.",
        ),
        NamedPanel(
            "decoys",
            discrimination(found),
            f"{record.key}: how often a matched pair is more alike than a random one of equal frequency (AUC). Hollow: "
            "the same after shuffling who is matched with whom, which must be near one half.",
        ),
        NamedPanel(
            "scores",
            score_dots(record, "Do explanations predict?", _SCORES, "median over explanations"),
            f"{record.key}: whether explanations predict where their features fire, on text that did not make them: "
            "median over explanations; bar: chance.",
        ),
        NamedPanel(
            "negatives",
            score_dots(record, "Detection by kind of other examples", _BY_NEGATIVES, "AUC"),
            f"{record.key}: how well an explanation tells examples in which its feature fires from each kind of "
            "examples in which it does not.",
        ),
    ]


def similarity_cloud(record: SimilarityRecord, max_points: int) -> Panel:
    """Similarity against cosine by the primary measure; points are thinned out evenly over the cosine."""
    found = record.first
    title = "Explanations by cosine"
    pairs = record.pairs_of(found.measure)
    cosine, similarity, decoy = (column(pairs, name) for name in ("cosine", "similarity", "decoy_similarity"))
    known = np.flatnonzero(np.isfinite(similarity))
    if not len(known):
        return EmptyPanel(title, unexplained(found))
    known = known[np.argsort(np.abs(cosine[known]), kind="stable")]
    chosen = known[np.unique(np.linspace(0, len(known) - 1, min(max_points, len(known))).round().astype(int))]
    bins = [part for part in found.equal_count_bins if part.n]
    chance = list(record.summary.chance_cosine.values())
    cloud = Cloud(
        cosine=np.abs(cosine[chosen]),
        similarity=similarity[chosen],
        decoy=decoy[chosen],
        bin_cosine=_values([part.mean_cosine for part in bins]),
        bin_similarity=_values([part.mean_similarity for part in bins]),
        bin_sd=_values([part.sd_similarity for part in bins]),
        bin_decoy=_values([part.mean_decoy for part in bins]),
        ceiling=found.noise_ceiling,
        chance_cosine=sum(chance) / len(chance) if chance else None,
    )
    return cloud_panel(cloud, title, _Y_LABELS[found.kind])


def published_bins(record: SimilarityRecord) -> Panel:
    """The published bins: a judge's ratings where there is one, else the primary measure."""
    judged = [each for each in record.summary.measures if each.kind == "judge" and each.n_used]
    found = judged[0] if judged else record.first
    if not found.n_used:
        return EmptyPanel("The paper’s bins", unexplained(found))
    below, rows = beside_published(found)
    bins = [BinBeside(theirs.low, theirs.high, theirs.score, *_of_bin(ours)) for theirs, ours in rows]
    if below is not None:
        bins.insert(0, BinBeside(0.0, below.high, None, *_of_bin(below)))
    return published_panel(bins, _Y_LABELS[found.kind], same_scale=found.kind == "judge")


def correlations(record: SimilarityRecord) -> Panel:
    """Partial and raw rank correlation of every measure."""
    title = "Rise with the cosine"
    measures = [each for each in record.summary.measures if each.rho_partial is not None or each.rho is not None]
    if not measures:
        return EmptyPanel(title, unexplained(record.first))
    rows = [
        RangeRow(
            short_name(each),
            each.rho_partial,
            each.rho_partial_ci.low if each.rho_partial_ci else None,
            each.rho_partial_ci.high if each.rho_partial_ci else None,
            each.rho,
        )
        for each in measures
    ]
    return ranges_panel(rows, title, "Spearman ρ", ("given frequency", "raw"), reference=0.0, reach=0.3)


def discrimination(record: SimilarityRecord) -> Panel:
    """AUC of every measure, and that of shuffled matches."""
    title = "Against random pairs"
    measures = [each for each in record.summary.measures if each.auc is not None]
    if not measures:
        return EmptyPanel(title, unexplained(record.first))
    rows = [RangeRow(short_name(each), each.auc, other=each.auc_shuffled) for each in measures]
    names = ("matched", "shuffled matches")
    return ranges_panel(rows, title, "AUC against random pairs", names, reference=0.5, reach=0.5)


def score_dots(record: VariantRecord, title: str, scores: Mapping[str, str], x_label: str) -> Panel:
    """Some scores of every explainer.

    Args:
        scores: by the name that readers see, at most four.
    """
    rows = []
    for place, (explainer, runs) in enumerate(record.scores.items()):
        values = tuple(mean_of_medians(runs, name) for name in scores.values())
        if any(value is not None for value in values):
            rows.append(DotRow(explainer, values, chance=0.5, colour=place % MAX_SERIES))
    if not rows:
        return EmptyPanel(title, "explanations were not scored")
    return dots_panel(rows, tuple(scores), title, x_label, chance="chance")


def measure_name(found: MeasureSummary) -> str:
    """A measure as readers know it."""
    names = {
        "embedding": f"explanations of {found.explainer}, embedded",
        "judge": f"explanations of {found.explainer}, rated",
        "words": "words they fire on",
        "activations": "activations on the same tokens",
    }
    return names[found.kind]


def short_name(found: MeasureSummary) -> str:
    """The same, short."""
    how = {"embedding": "embedded", "judge": "rated"}
    return f"{found.explainer}, {how[found.kind]}" if found.kind in how else found.kind


def _of_bin(part: SimilarityBin | None) -> tuple[int, float | None, float | None, float | None]:
    return (
        (0, None, None, None) if part is None else (part.n, part.mean_similarity, part.sd_similarity, part.mean_decoy)
    )


def _values(numbers: Sequence[float | None]) -> Values:
    return np.array([np.nan if number is None else number for number in numbers], dtype=np.float64)
