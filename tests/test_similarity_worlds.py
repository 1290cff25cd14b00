"""Worlds whose answer is known: only frequency matters, concepts were planted, matches were shuffled."""

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import kstest, rankdata

from sae_core.config import SimilarityConfig
from sae_core.similarity.compare import explanation_similarity
from tests.made_up_similarity import MadeUpJudge, contexts, explanations, matches

N = 400
RUNS = ("A", "B", "C")


DIRECTIONS = np.random.default_rng(0).standard_normal((50_000, 48))


def _embed(texts):
    """A text is "concept,noise,level": the direction of the concept plus so much of another one."""
    concept, noise, level = np.array([text.split(",") for text in texts]).T
    return DIRECTIONS[concept.astype(int)] + level.astype(float)[:, None] * DIRECTIONS[noise.astype(int)]


def _frequencies(rng, n):
    """Log-normal as those of real features, and counts of tokens, so that rare ones have ties."""
    return np.ceil(np.exp(rng.normal(5, 2, n))) / 1e6


def _world(rng, cosine, level, frequency, concept, runs=RUNS):
    """Runs whose matched features share a number; their texts are ``concept(run, feature)`` under noise of a level."""
    tables, found = {}, []
    n = len(frequency)
    for number, run in enumerate(runs):
        texts = {
            i: tuple(f"{concept(number, i)},{rng.integers(len(DIRECTIONS))},{level[i]:.6f}" for _ in (0, 1))
            for i in range(n)
        }
        tables[run] = explanations(texts)
    for i, a in enumerate(runs):
        found += [matches([(j, j, c) for j, c in enumerate(cosine)], a, b, frequency) for b in runs[i + 1 :]]
    return pa.concat_tables(found), tables


def _measure(found, tables, judge=None, n_permutations=99):
    pairs = set(zip(found["run_a"].to_pylist(), found["run_b"].to_pylist(), strict=True))
    return explanation_similarity(
        found, {run: contexts({}, d_sae=1) for run in tables}, {"lexical": tables}, {}, dict.fromkeys(pairs, 0.1),
        _embed, judge, SimilarityConfig(n_permutations=n_permutations),
    ).summary  # fmt: skip


def _only_frequency(seed, runs=RUNS, shape=lambda rank: rank, n=N):
    """Frequent features have a high cosine, and whatever they are about they get similar, vague explanations."""
    rng = np.random.default_rng(seed)
    frequency = _frequencies(rng, n)
    trend = shape(rankdata(frequency) / n)
    cosine = np.clip(0.15 + 0.6 * trend + rng.normal(0, 0.1, n), 0.01, 1)
    level = np.clip(1.8 - 1.5 * trend + rng.normal(0, 0.15, n), 0.05, None)
    return _world(rng, cosine, level, frequency, lambda run, feature: 7, runs)


def _planted(seed, runs=RUNS):
    """The higher the cosine, the nearer what is said of a concept of its own; the frequency matters to neither."""
    rng = np.random.default_rng(seed)
    cosine = rng.uniform(0.15, 1, N)
    level = 1.1 - cosine + rng.uniform(0, 0.1, N)
    return _world(rng, cosine, level, _frequencies(rng, N), lambda run, feature: 1000 + feature, runs)


def test_where_frequency_alone_matters_the_raw_correlation_is_high_and_the_partial_one_about_zero():
    first = _measure(*_only_frequency(0)).first
    assert first.rho > 0.6
    assert abs(first.rho_partial) < 0.1
    assert abs(first.lift) < 0.02
    assert first.auc == pytest.approx(0.5, abs=0.04)
    assert first.auc_shuffled == pytest.approx(0.5, abs=0.04)
    assert first.equal_count_bins[-1].mean_similarity > first.equal_count_bins[0].mean_similarity + 0.2
    # What the bins show there, decoys of the same frequency show too.
    assert all(abs(b.mean_similarity - b.mean_decoy) < 0.06 for b in first.equal_count_bins)


@pytest.mark.parametrize("bent", [False, True])
def test_there_the_permutation_p_is_small_no_more_often_than_it_may_be(bent):
    shape = (lambda rank: np.tanh(6 * (rank - 0.7))) if bent else (lambda rank: rank)
    found = []
    for seed in range(60):
        own, tables = _only_frequency(seed, ("A", "B"), shape, n=120)
        found.append(_measure(own, tables).first)
    p_values = np.array([one.permutation_p for one in found])
    assert kstest(p_values, "uniform").pvalue > 0.01
    assert (p_values <= 0.1).mean() < 0.2
    if not bent:
        assert abs(np.mean([one.rho_partial for one in found])) < 0.03


def test_where_concepts_were_planted_both_are_high_and_matched_pairs_are_told_from_decoys():
    summary = _measure(*_planted(0))
    first = summary.first
    assert first.rho > 0.6
    assert first.rho_partial > 0.6
    assert first.rho_partial_ci.low > 0.5
    assert first.permutation_p == pytest.approx(0.02)
    assert first.rho_partial_above_chance > 0.6
    assert first.auc > 0.97
    assert first.auc_shuffled == pytest.approx(0.5, abs=0.04)
    assert first.lift > 0.5
    assert abs(first.mean_decoy) < 0.02
    assert first.noise_ceiling == pytest.approx(first.mean_similarity, abs=0.02)
    means = [one.mean_similarity for one in first.equal_count_bins]
    assert means == sorted(means)


def test_where_cosine_and_frequency_go_together_too_planted_concepts_still_show():
    rng = np.random.default_rng(1)
    frequency = _frequencies(rng, N)
    cosine = np.clip(0.1 + 0.4 * rankdata(frequency) / N + rng.uniform(0, 0.5, N), 0, 1)
    found = _world(rng, cosine, 1.1 - cosine, frequency, lambda run, feature: 1000 + feature)
    first = _measure(*found).first
    assert first.rho_partial > 0.5
    assert first.auc > 0.97


def test_shuffled_matches_cannot_be_told_from_decoys():
    for world in (_planted, _only_frequency):
        own, tables = world(2)
        rng = np.random.default_rng(0)
        parts = []
        for k in range(3):
            part = own.slice(k * N, N)
            order = np.argsort(part["frequency_b"].to_numpy())
            partner = np.empty(N, np.int64)
            for rows in np.array_split(order, N // 20):  # of like frequency
                partner[rows] = rng.permutation(rows)
            parts.append(
                part.set_column(3, "feature_b", pa.array(partner)).set_column(
                    part.column_names.index("frequency_b"), "frequency_b", part["frequency_b"].take(pa.array(partner))
                )
            )
        first = _measure(pa.concat_tables(parts), tables).first
        assert first.auc == pytest.approx(0.5, abs=0.05)
        assert abs(first.lift) < 0.06
        assert first.auc_shuffled == pytest.approx(0.5, abs=0.04)


def test_of_a_mixture_of_shared_and_lost_features_the_auc_tells_the_shared_part():
    rng = np.random.default_rng(3)
    cosine = np.where(rng.random(N) < 0.5, rng.uniform(0.8, 1, N), rng.uniform(0.05, 0.1, N))
    fresh = iter(range(10_000, len(DIRECTIONS)))
    found = _world(
        rng, cosine, np.full(N, 0.2), _frequencies(rng, N),
        lambda run, feature: 1000 + feature if cosine[feature] > 0.5 else next(fresh),
    )  # fmt: skip
    first = _measure(*found).first
    share = (cosine > 0.5).mean()
    assert first.auc == pytest.approx(share + (1 - share) / 2, abs=0.04)
    assert first.n_below_chance == 3 * int((cosine <= 0.1).sum())
    assert abs(first.mean_similarity_below_chance) < 0.03
    assert first.rho_partial > 0.6


def test_words_and_activations_of_planted_concepts_are_alike_and_those_of_shuffled_matches_are_not():
    rng = np.random.default_rng(0)
    n, tokens = 80, 400
    cosine = rng.uniform(0.1, 1, n)
    own = {}
    concepts = [rng.random(tokens) * (rng.random(tokens) < 0.1) for _ in range(n)]
    kinds = rng.dirichlet(np.full(40, 0.1), n)
    for run in ("A", "B"):
        codes, words = {}, {}
        for i in range(n):
            noise = (1 - cosine[i]) * rng.random(tokens) * (rng.random(tokens) < 0.1)
            x = concepts[i] + 2 * noise
            codes[i] = {int(t): float(x[t]) for t in np.flatnonzero(x)}
            for half in (0, 1):
                p = cosine[i] * kinds[i] + (1 - cosine[i]) * rng.dirichlet(np.full(40, 0.1))
                words[i, half] = {f"w{k}": float(p[k]) for k in np.flatnonzero(p > 0.01)}
        own[run] = contexts(codes, words, d_sae=n, looked_at=range(tokens))
    frequency = np.full(n, 0.1) + 1e-3 * rng.random(n)
    tables = {run: explanations({}) for run in ("A", "B")}
    pairs = matches([(i, i, c) for i, c in enumerate(cosine)], frequency=frequency)
    for partners in (np.arange(n), np.roll(np.arange(n), 1)):
        found = pairs.set_column(3, "feature_b", pa.array(partners))
        summary = explanation_similarity(
            found, own, {"lexical": tables}, {}, {("A", "B"): 0.05}, _embed, None, SimilarityConfig(n_permutations=99)
        ).summary
        for name in ("words", "activations"):
            measure = summary.measure(name)
            if partners[0] == 0:
                assert measure.rho_partial > 0.6
                assert measure.auc > 0.9
                assert measure.permutation_p < 0.05
            else:
                assert measure.auc == pytest.approx(0.5, abs=0.12)
            assert measure.auc_shuffled == pytest.approx(0.5, abs=0.12)


def test_a_judge_sees_planted_concepts_too():
    rng = np.random.default_rng(0)
    n = 60
    base = rng.uniform(0, 360, n)
    cosine = rng.uniform(0.1, 1, n)
    tables = {
        run: explanations({i: (f"{angle:.1f}", f"{angle:.1f}") for i, angle in enumerate(base + shift)})
        for run, shift in (("A", np.zeros(n)), ("B", 150 * (1 - cosine)))
    }
    found = matches([(i, i, c) for i, c in enumerate(cosine)], frequency=rng.random(n))
    summary = explanation_similarity(
        found, {run: contexts({}, d_sae=1) for run in tables}, {"lexical": tables}, {}, {("A", "B"): 0.05},
        lambda texts: np.array([[float(text), 1.0] for text in texts]), MadeUpJudge(), SimilarityConfig(),
    ).summary  # fmt: skip
    judged = summary.measure("judge:lexical")
    assert judged.rho_partial > 0.9
    assert judged.auc > 0.6
