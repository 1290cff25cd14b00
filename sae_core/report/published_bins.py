"""What was published about explanations of matched features: part of *report*."""

from dataclasses import dataclass

from sae_core.similarity.results import MeasureSummary
from sae_core.similarity.statistics import PAPER_EDGES, SimilarityBin


@dataclass(frozen=True)
class PublishedBin:
    """Matched pairs whose |cosine| lies in a bin."""

    low: float
    high: float
    n: int
    score: float
    """Mean score of the two explanations, rated by a language model from 1 to 10."""


_FOUND = ((34, 1.71), (311, 2.19), (975, 3.27), (1423, 4.12), (13640, 8.28))
PUBLISHED_BINS = tuple(
    PublishedBin(low, high, n, score)
    for low, high, (n, score) in zip(PAPER_EDGES[:-1], PAPER_EDGES[1:], _FOUND, strict=True)
)
"""Song et al. 2025: TopK SAEs (k 20) of Pythia-160M, two seeds; both sides of a pair explained from the same text."""


def beside_published(
    found: MeasureSummary,
) -> tuple[SimilarityBin | None, list[tuple[PublishedBin, SimilarityBin | None]]]:
    """Our bin below the published ones, and ours for each of those; None where we have none."""
    by_start = {part.low: part for part in found.log_bins}
    return by_start.get(0.0), [(published, by_start.get(published.low)) for published in PUBLISHED_BINS]
