"""Which features fire: rates, joint rates and sets against theory and plain enumeration."""

from itertools import combinations, permutations

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import chisquare, gumbel_r, multivariate_normal, norm

from sae_core.synthetic.firing import ExactlyK
from sae_core.synthetic.frequencies import probabilities, weights
from sae_core.synthetic.structures import firing
from sae_core.synthetic_config import SyntheticConfig

ZIPF = {"kind": "zipf", "exponent": 1.0}
N = 40_000


def law(**settings):
    config = SyntheticConfig(**{"d_in": 4, "d_gt": 12, "k": 3, **settings})
    return firing(config, weights(config.frequency, config.d_gt), np.random.default_rng(7))


def fires(found, n=N, seed=0):
    """Samples by features, true where one fires."""
    sample, feature = found.draw(n, np.random.default_rng(seed))
    width = len(found.probability) if found.probability is not None else feature.max() + 1
    dense = np.zeros((n, width), bool)
    dense[sample, feature] = True
    assert dense.sum() == len(sample), "a pair was there twice"
    order = sample * width + feature
    assert (np.diff(order) > 0).all(), "not sorted by sample and feature"
    return dense


def assert_rates(rates, probability, n=N):
    """Within five standard deviations of a mean of ``n`` coins."""
    assert (np.abs(rates - probability) <= 5 * np.sqrt(probability * (1 - probability) / n) + 1e-12).all()


def assert_sets(dense, expected):
    """Sets that fired, counted, against their probabilities."""
    sets, counts = np.unique(dense, axis=0, return_counts=True)
    observed = {tuple(np.flatnonzero(row)): count for row, count in zip(sets, counts, strict=True)}
    assert set(observed) <= set(expected)
    assert sum(expected.values()) == pytest.approx(1)
    frequencies = [observed.get(found, 0) for found in expected]
    assert chisquare(frequencies, len(dense) * np.array(list(expected.values()))).pvalue > 1e-3


def successive(weight, k, group_of=None):
    """Probability of each set of k features drawn one after the other; with one, the rest of its group is gone."""
    group_of = np.arange(len(weight)) if group_of is None else group_of
    sets = {}
    for order in permutations(range(len(weight)), k):
        if len(set(group_of[list(order)])) < k:
            continue
        probability, left = 1.0, np.ones(len(weight), bool)
        for feature in order:
            probability *= weight[feature] / weight[left].sum()
            left &= group_of != group_of[feature]
        key = tuple(sorted(order))
        sets[key] = sets.get(key, 0) + probability
    return sets


# --- weights and probabilities ----------------------------------------------------------------------------------


def test_weights_are_powers_of_the_rank_of_a_feature_or_of_its_group():
    def of(d_gt, **frequency):
        return weights(SyntheticConfig(d_in=2, d_gt=d_gt, k=1, frequency=frequency).frequency, d_gt)

    assert of(4, kind="uniform") == pytest.approx([0.25] * 4)
    assert of(3, kind="zipf", exponent=2) == pytest.approx(np.array([36, 9, 4]) / 49)
    assert of(6, kind="zipf", n_groups=3) == pytest.approx(np.array([6, 6, 3, 3, 2, 2]) / 22)
    two = of(8, kind="two_phase_zipf", exponent=1, tail_exponent=3, break_rank=4)
    assert two / two[0] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, *(1 / 4 * (4 / r) ** 3 for r in (5, 6, 7, 8))])


def test_weights_too_small_for_numbers_are_refused():
    with pytest.raises(ValueError, match=r"the rarest of 50 features has weight zero.*lower its exponent"):
        law(d_gt=50, frequency={"kind": "zipf", "exponent": 300})


@pytest.mark.parametrize("k", [1, 2, 5, 11, 12])
def test_probabilities_follow_the_weights_up_to_one_and_add_up_to_k(k):
    weight = weights(SyntheticConfig(d_in=2, d_gt=12, k=1, frequency={"kind": "zipf", "exponent": 2}).frequency, 12)
    found = probabilities(weight, k)
    assert found.sum() == pytest.approx(k)
    factor = found[-1] / weight[-1] if k < 12 else np.inf
    assert found == pytest.approx(np.minimum(1, factor * weight))


# --- independent features ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("frequency", [{"kind": "uniform"}, {"kind": "zipf", "exponent": 1.5}])
@pytest.mark.parametrize("k", [1, 3, 4])
def test_exactly_k_is_drawing_one_after_the_other_without_replacement(frequency, k):
    weight = weights(SyntheticConfig(d_in=2, d_gt=5, k=1, frequency=frequency).frequency, 5)
    assert_sets(fires(law(d_gt=5, k=k, frequency=frequency)), successive(weight, k))


@pytest.mark.parametrize("exponent", [1, 4, 40, 150])
def test_exactly_k_different_features_fire_however_skewed_the_weights(exponent):
    sample, feature = law(d_gt=100, k=6, frequency={"kind": "zipf", "exponent": exponent}).draw(
        2000, np.random.default_rng(0)
    )
    feature = feature.reshape(2000, 6)
    assert (np.diff(feature) > 0).all()
    assert (sample.reshape(2000, 6) == np.arange(2000)[:, None]).all()
    if exponent == 150:  # the next feature is drawn with a chance of 1 - 1e-9 at least
        assert (feature == np.arange(6)).all()


def test_what_is_rare_is_drawn_by_its_weight_when_all_that_is_frequent_is_taken():
    weight = np.array([1, 4e-30, 2e-30, 1e-30])  # a sum of all of them does not hold the small ones
    expected = {found: probability for found, probability in successive(weight, 2).items() if probability > 1e-9}
    assert list(expected) == [(0, 1), (0, 2), (0, 3)]
    dense = fires(ExactlyK(weight, 2))
    assert_sets(dense, expected)


def test_uniform_features_fire_equally_often():
    found = law(d_gt=20, k=4)
    assert found.probability == pytest.approx([0.2] * 20)
    assert_rates(fires(found).mean(0), found.probability)


@pytest.mark.parametrize("frequency", [{"kind": "uniform"}, ZIPF, {"kind": "zipf", "exponent": 3}])
def test_bernoulli_features_fire_with_their_probabilities_and_know_nothing_of_each_other(frequency):
    found = law(support="bernoulli", frequency=frequency)
    dense = fires(found)
    assert found.probability.sum() == pytest.approx(3)
    assert_rates(dense.mean(0), found.probability)
    for i, j in combinations(range(12), 2):
        assert_rates((dense[:, i] & dense[:, j]).mean(), found.probability[i] * found.probability[j])
    assert dense.sum(1).var() == pytest.approx((found.probability * (1 - found.probability)).sum(), rel=0.05)
    # Samples know nothing of each other either.
    assert_rates((dense[1:, 2] & dense[:-1, 2]).mean(), found.probability[2] ** 2)


def test_all_features_may_fire():
    for support in ("exactly", "bernoulli"):
        assert fires(law(d_gt=3, k=3, support=support), 50).all()


# --- correlated features ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("frequency", [{"kind": "uniform"}, ZIPF])
def test_correlated_features_fire_with_their_probabilities_and_together_as_the_copula_says(frequency):
    found = law(support="bernoulli", frequency=frequency, structure={"kind": "correlated", "strength": 0.7, "rank": 2})
    dense = fires(found)
    assert_rates(dense.mean(0), found.probability)
    R = found.copula.loadings @ found.copula.loadings.T
    assert np.diag(R) == pytest.approx(0.7)
    for i, j in combinations(range(12), 2):
        both = multivariate_normal([0, 0], [[1, R[i, j]], [R[i, j], 1]]).cdf(ndtri(found.probability[[i, j]]))
        assert_rates((dense[:, i] & dense[:, j]).mean(), both)


def test_without_strength_the_copula_changes_nothing():
    weight = weights(SyntheticConfig(d_in=2, d_gt=5, k=1, frequency=ZIPF).frequency, 5)
    structure = {"kind": "correlated", "strength": 0.0}
    assert_sets(fires(law(d_gt=5, k=3, frequency=ZIPF, structure=structure)), successive(weight, 3))
    assert_sets(fires(law(d_gt=5, k=2, structure=structure)), successive(np.full(5, 0.2), 2))


def test_at_full_strength_and_rank_one_features_fire_together_or_never():
    dense = fires(law(support="bernoulli", k=4, structure={"kind": "correlated", "strength": 1.0, "rank": 1}))
    together = dense.T.astype(float) @ dense / N
    # Rows of U are 1 or -1: a feature shares its normal variable with some, and has the opposite of all others.
    assert_rates(together[together > 0], 1 / 3)
    assert {0.0} < set(together.ravel().tolist())


@pytest.mark.parametrize("frequency", [{"kind": "uniform"}, ZIPF])
def test_exactly_k_correlated_features_are_those_with_the_best_gumbel_scores(frequency):
    found = law(d_gt=4, k=2, frequency=frequency, structure={"kind": "correlated", "strength": 0.8, "rank": 2})
    weight = weights(SyntheticConfig(d_in=2, d_gt=4, k=1, frequency=frequency).frequency, 4)
    R = found.copula.loadings @ found.copula.loadings.T
    np.fill_diagonal(R, 1)
    normal = multivariate_normal(np.zeros(4), R).rvs(200_000, random_state=3)
    score = np.log(weight) + gumbel_r.ppf(norm.cdf(normal))
    best = np.sort(np.argsort(score, axis=1)[:, 2:], axis=1)
    expected = {pair: float((best == pair).all(1).mean()) for pair in combinations(range(4), 2)}
    dense = fires(found)
    for pair, probability in expected.items():
        assert dense[:, list(pair)].all(1).mean() == pytest.approx(probability, abs=0.015)
    assert (dense.sum(1) == 2).all()


# --- exclusive features -----------------------------------------------------------------------------------------


def test_of_an_exclusive_group_one_feature_fires_at_most_and_each_with_its_own_probability():
    found = law(support="bernoulli", k=2, frequency=ZIPF, structure={"kind": "exclusive", "group_size": 2})
    dense = fires(found)
    assert dense.reshape(N, 6, 2).sum(2).max() == 1
    assert found.probability == pytest.approx(probabilities(weights(law_frequency(ZIPF), 12), 2))
    assert_rates(dense.mean(0), found.probability)
    for i, j in combinations(range(0, 12, 2), 2):  # groups know nothing of each other
        assert_rates((dense[:, i] & dense[:, j]).mean(), found.probability[i] * found.probability[j])


def law_frequency(frequency):
    return SyntheticConfig(d_in=2, d_gt=12, k=1, frequency=frequency).frequency


@pytest.mark.parametrize("frequency", [{"kind": "uniform"}, ZIPF])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_exactly_k_exclusive_features_are_drawn_one_after_the_other_and_each_takes_its_group_away(frequency, k):
    weight = weights(SyntheticConfig(d_in=2, d_gt=6, k=1, frequency=frequency).frequency, 6)
    dense = fires(law(d_gt=6, k=k, frequency=frequency, structure={"kind": "exclusive", "group_size": 2}))
    assert_sets(dense, successive(weight, k, np.arange(6) // 2))


def test_groups_that_would_fire_more_often_than_on_every_sample_are_refused():
    with pytest.raises(ValueError, match=r"first 4 features add up to 2\.01.*lower k, group_size or the exponent"):
        law(support="bernoulli", frequency=ZIPF, structure={"kind": "exclusive", "group_size": 4})


# --- hierarchies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("branching", "n_roots"), [(2, 1), (3, 2), (1, 3), (5, 1)])
@pytest.mark.parametrize("frequency", [{"kind": "uniform"}, ZIPF])
def test_children_fire_only_with_their_parent_and_then_with_their_own_probability(branching, n_roots, frequency):
    structure = {"kind": "hierarchical", "branching": branching, "n_roots": n_roots}
    found = law(support="bernoulli", frequency=frequency, structure=structure)
    dense = fires(found)
    parents = {}
    for parent in range(12):
        for child in range(branching * parent + n_roots, branching * parent + n_roots + branching):
            if child < 12:
                assert child not in parents
                parents[child] = parent
    assert set(parents) == set(range(n_roots, 12))  # a forest: every feature but the roots has one parent
    for child, parent in parents.items():
        fired = dense[:, parent]
        assert not (dense[:, child] & ~fired).any()
        assert_rates(dense[fired, child].mean(), found.conditional[child], fired.sum())
    assert_rates(dense.mean(0), found.probability)
    assert found.probability.sum() == pytest.approx(3)
    factor = found.conditional[-1] / weights(law_frequency(frequency), 12)[-1]
    assert found.conditional == pytest.approx(np.minimum(1, factor * weights(law_frequency(frequency), 12)))


def test_siblings_know_nothing_of_each_other():
    found = law(support="bernoulli", structure={"kind": "hierarchical", "branching": 2})
    dense = fires(found)
    fired = dense[dense[:, 0]]
    assert_rates((fired[:, 1] & fired[:, 2]).mean(), found.conditional[1] * found.conditional[2], len(fired))


def test_a_whole_forest_may_fire():
    assert fires(law(support="bernoulli", k=12, structure={"kind": "hierarchical"}), 50).all()
