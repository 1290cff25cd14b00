"""Tables of the page about explanations: measures, the published bins, scores, quoted pairs, and what they show.

Part of *report*.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from sae_core.report.explanation_panels import measure_name, short_name
from sae_core.report.numbers import MISSING, evenly_spaced, number, per_million, percent, with_interval
from sae_core.report.published_bins import PUBLISHED_BINS, beside_published
from sae_core.report.records import SimilarityRecord, VariantRecord
from sae_core.report.score_numbers import mean_of_medians
from sae_core.report.stability import PageTable, Section
from sae_core.report.table import reasons, unexplained
from sae_core.scoring.results import ScoresSummary
from sae_core.similarity.results import MeasureSummary
from sae_core.similarity.statistics import SimilarityBin

_N_EXAMPLES = 10
"""Matched pairs of features quoted with their explanations."""


def explanation_sections(record: VariantRecord) -> list[Section]:
    """What the page says about the explanations of one variant, among its details."""
    first = record.similarity.first
    note = f"{unexplained(first)}. Random pairs: of equal frequency."
    bins = PageTable(_BIN_HEADER, [_bin_row(part) for part in first.equal_count_bins])
    found = [Section("Explanations by cosine, equal counts", bins, note)]
    per_pair = [
        [
            f"{pair.run_a} and {pair.run_b}", number(pair.rho_partial), number(pair.permutation_p), number(pair.rho),
            number(pair.lift, sign=True), number(pair.auc), number(pair.auc_shuffled), f"{pair.n_used:,}",
        ]
        for pair in first.run_pairs
    ]  # fmt: skip
    header = ["pair", "ρ given frequency", "p", "raw ρ", "lift", "AUC", "shuffled", "pairs"]
    found.append(Section("Explanations of each pair of seeds", PageTable(header, per_pair)))
    return [*found, *_examples(record)]


def measures_section(records: Sequence[VariantRecord]) -> Section:
    """Every measure of every variant side by side; what is missing stands beside the number."""
    named = {record.key if len(records) > 1 else "": record.similarity for record in records}
    note = (
        "ρ: rank correlation of a matched pair’s cosine with its similarity, frequency held constant; the interval is "
        "over seeds, p from permutations among pairs of like frequency; permuted: its mean over those, what a common "
        "bend with frequency makes of it; raw: without holding frequency. Lift: mean similarity minus that of random "
        "pairs of equal frequency. AUC: how often a matched pair is more alike than a random one; shuffled: the same "
        "after shuffling the partners, which must be near 0.5. Ceiling: one feature with itself, explained from the "
        "two halves of the text."
    )
    return Section("Measures side by side", measures_table(named), note, "remark wide")


def measures_table(records: Mapping[str, SimilarityRecord]) -> PageTable:
    """A row a measure.

    Args:
        records: by variant; an empty name is left out.
    """
    header = [
        "measure", "ρ given frequency [95\u00a0%\u00a0CI]", "p", "permuted", "raw ρ", "lift", "AUC", "shuffled",
        "ceiling", "pairs", "missing",
    ]  # fmt: skip
    rows = [
        [f"{variant}: {short_name(each)}" if variant else measure_name(each), *_measure_cells(each)]
        for variant, record in records.items()
        for each in record.summary.measures
    ]
    return PageTable(header, rows)


def _measure_cells(found: MeasureSummary) -> list[str]:
    ci = found.rho_partial_ci
    return [
        with_interval(found.rho_partial, ci.low if ci else None, ci.high if ci else None, 2),
        number(found.permutation_p),
        number(found.rho_partial_permuted, 2),
        number(found.rho, 2),
        number(found.lift, 3, sign=True),
        number(found.auc),
        number(found.auc_shuffled),
        number(found.noise_ceiling),
        f"{found.n_used:,} of {found.n_asked:,}",
        reasons(found.missing),
    ]


def published_section(record: VariantRecord) -> Section:
    """The five published bins of the cosine, with what came out here beside them."""
    first = record.similarity.first
    note = (
        f"{record.key} beside Song et al. 2025 (TopK SAEs of Pythia-160M, k 20, two seeds; a large model explained and "
        "rated, both sides from the same text). Other explanations, another scale: compare where it rises. "
        f"{first.n_below_chance:,} of our {first.n_used:,} pairs have a cosine that chance alone would give."
    )
    return Section("The published table beside ours", published_table(record.similarity), note)


def published_table(record: SimilarityRecord) -> PageTable:
    """A row a bin: what was published; and here pairs and mean similarity by the primary measure and by judges."""
    measures = [record.first, *(each for each in record.summary.measures if each.kind == "judge")]
    header = ["|cosine|", "pairs, published", "rating 1 to 10, published"]
    rows = [[f"{bin_.low:.3f} – {bin_.high:.3f}", f"{bin_.n:,}", number(bin_.score, 2)] for bin_ in PUBLISHED_BINS]
    below_row = [f"below {PUBLISHED_BINS[0].low:.3f}", MISSING, MISSING]
    for each in measures:
        header += ["pairs here", f"{_KINDS[each.kind]} here", "random pairs here"]
        below, beside = beside_published(each)
        for row, (_, ours) in zip(rows, beside, strict=True):
            row += _short_bin(ours)
        below_row += _short_bin(below)
    return PageTable(header, [below_row, *rows])


_KINDS = {"embedding": "similarity", "judge": "rating", "words": "overlap of words", "activations": "correlation"}


def _short_bin(part: SimilarityBin | None) -> list[str]:
    if part is None or not part.n:
        return ["0", MISSING, MISSING]
    return [f"{part.n:,}", number(part.mean_similarity), number(part.mean_decoy)]


def scores_section(records: Sequence[VariantRecord]) -> Section | None:
    """Whether explanations predict where features fire, for every explainer; None where nothing was scored."""
    columns = [
        ("detection", "detection_balanced_accuracy"), ("F1", "detection_f1"), ("AUC", "detection_auc"),
        ("AUC, hard", "detection_auc_near"), ("fuzzing", "fuzzing_balanced_accuracy"), ("simulation r",
        "simulation_pearson"), ("embedding AUC", "embedding_auc"),
    ]  # fmt: skip
    rows = [
        [
            f"{record.key}: {explainer}" if len(records) > 1 else explainer,
            *(number(mean_of_medians(runs, name), 2) for _, name in columns),
            _n_scored(runs),
            _unscored(runs),
        ]
        for record in records
        for explainer, runs in record.scores.items()
        if runs
    ]
    header = ["explainer", *(title for title, _ in columns), "explanations", "missing"]
    note = (
        "Median over explanations, mean over seeds; always on the half of the text that did not make the explanation. "
        "Detection: tells examples in which the feature fires from others (balanced accuracy, F1, AUC; hard: against "
        "the examples nearest to those it fires in). Fuzzing: whether the marked tokens are those it fires on. "
        "Simulation: correlation with its activations. Balanced accuracy and AUC are 0.5 by chance, r is 0. "
        "Explanations with low scores may be alike and still wrong."
    )
    return Section("Do the explanations predict?", PageTable(header, rows), note, "remark wide") if rows else None


def _n_scored(runs: Mapping[str, ScoresSummary]) -> str:
    """Explanations of all runs with at least one score, of those there are."""
    scored = sum(max((score.n for score in found.scores), default=0) for found in runs.values())
    return f"{scored:,} of {sum(found.n_explanations for found in runs.values()):,}"


def _unscored(runs: Mapping[str, ScoresSummary]) -> str:
    """Why explanations lack a detection score, and questions without an answer."""
    counts: dict[str, int] = {}
    for found in runs.values():
        score = found.score("detection_balanced_accuracy")
        for why, count in (score.missing if score else {}).items():
            counts[why] = counts.get(why, 0) + count
        for why, count in found.missing_trials.items():
            counts[f"answers: {why}"] = counts.get(f"answers: {why}", 0) + count
    return reasons(counts)


def conclusions(record: VariantRecord) -> list[str]:
    """What the numbers of one variant show, and what they do not."""
    found = record.similarity.first
    if found.rho_partial is None:
        return [f"Nothing can be said: {unexplained(found)}."]
    ci = found.rho_partial_ci
    value = with_interval(found.rho_partial, ci.low if ci else None, ci.high if ci else None, 2)
    texts = [
        f"{record.key}: at equal frequency {trend(found)} with the cosine: ρ {value}{_p(found)}; raw ρ "
        f"{number(found.rho, 2)}, which frequency can make."
    ]
    if found.lift is not None:
        texts[0] += (
            f" Matched pairs are more alike than random ones of equal frequency in {percent(found.auc, 0)} of cases "
            f"(lift {number(found.lift, 3, sign=True)}; shuffled matches {percent(found.auc_shuffled, 0)})."
        )
    if found.noise_ceiling is not None and found.mean_similarity is not None:
        texts.append(
            f"Matched features reach a similarity of {number(found.mean_similarity)}, random pairs "
            f"{number(found.mean_decoy)}, one feature with itself (from the two halves of the text) "
            f"{number(found.noise_ceiling)}: about the most that two seeds can reach."
        )
    detection = mean_of_medians(record.scores.get(found.explainer or "", {}), "detection_balanced_accuracy")
    scored = "" if detection is None else f" (detection {number(detection, 2)}, by chance 0.50)"
    texts.append(
        f"It does not show that an explanation is right: that is what its scores say{scored}. It holds for this model, "
        "this hook and this text. Measures that need no explanations (words, activations) show what features have in "
        "common by themselves, so what the language of explanations adds or loses."
    )
    return texts


def trend(found: MeasureSummary) -> str:
    """What the similarity of explanations does with the cosine at equal frequency, as far as can be told."""
    if found.permutation_p is not None and found.permutation_p > 0.05:
        return "it cannot be told that the similarity of explanations moves"
    return f"the similarity of explanations {'rises' if (found.rho_partial or 0) >= 0 else 'falls'}"


def _p(found: MeasureSummary) -> str:
    return "" if found.permutation_p is None else f", permutation p {number(found.permutation_p)}"


_BIN_HEADER = ["|cosine|", "pairs", "similarity", "sd", "random pairs"]


def _bin_row(part: SimilarityBin) -> list[str]:
    return [
        f"{part.low:.3f} – {part.high:.3f}", f"{part.n:,}", number(part.mean_similarity), number(part.sd_similarity),
        number(part.mean_decoy),
    ]  # fmt: skip


def _examples(record: VariantRecord) -> list[Section]:
    """Explained pairs of the first two runs, evenly spaced over their cosines: no pair is picked by hand."""
    pairs = record.similarity.pairs_of(record.similarity.summary.primary).to_pylist()
    run_a, run_b = (pairs[0]["run_a"], pairs[0]["run_b"]) if pairs else ("", "")
    explained = record.explanations.get(record.similarity.first.explainer or "", {})
    if run_a not in explained or run_b not in explained:
        return []
    texts = {run: _texts(explained[run]) for run in (run_a, run_b)}
    quotes = []
    for pair in pairs:
        if (pair["run_a"], pair["run_b"]) == (run_a, run_b) and pair["similarity"] is not None:
            halves = next((h for h in ((0, 1), (1, 0)) if _both(texts, pair, run_a, run_b, h)), None)
            if halves is not None:
                quotes.append((abs(pair["cosine"]), pair, halves))
    quotes.sort(key=lambda quote: (-quote[0], quote[1]["feature_a"]))
    rows = [
        [
            number(cosine),
            number(pair["similarity"]),
            per_million(pair["frequency"]),
            texts[run_a][pair["feature_a"], halves[0]],
            texts[run_b][pair["feature_b"], halves[1]],
        ]
        for cosine, pair, halves in (quotes[place] for place in evenly_spaced(len(quotes), _N_EXAMPLES))
    ]
    header = ["|cosine|", "similarity", "per million tokens", f"{run_a} explains", f"{run_b} explains"]
    note = "Evenly spaced over the cosine, none picked by hand; each side is explained from another half of the text."
    return [Section("Examples", PageTable(header, rows), note, "text")] if rows else []


def _texts(table: pa.Table) -> dict[tuple[int, int], str]:
    columns = (table[name].to_pylist() for name in ("feature", "half", "explanation"))
    return {(feature, half): text for feature, half, text in zip(*columns, strict=True) if text is not None}


def _both(
    texts: Mapping[str, Mapping[tuple[int, int], str]], pair: Mapping[str, Any], a: str, b: str, halves: tuple[int, int]
) -> bool:
    return (pair["feature_a"], halves[0]) in texts[a] and (pair["feature_b"], halves[1]) in texts[b]
