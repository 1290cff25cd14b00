import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from sae_core.scoring.formulas import Outcomes, normalised, pearson, pearson_of_sums

ANSWERS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30)
VALUES = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30)


@given(ANSWERS)
def test_rates_are_those_of_sklearn_and_none_where_they_are_not_defined(answers):
    predicted, truth = (np.array(column) for column in zip(*answers, strict=True))
    found = Outcomes.of(predicted.astype(float), truth)
    if predicted.any():
        assert found.precision == pytest.approx(metrics.precision_score(truth, predicted))
    else:
        assert found.precision is None
    if truth.any():
        assert found.recall == pytest.approx(metrics.recall_score(truth, predicted))
        assert found.f1 == pytest.approx(metrics.f1_score(truth, predicted, zero_division=0))
    else:
        assert found.recall is None
        assert found.f1 is None
    if truth.any() and not truth.all():
        assert found.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(truth, predicted))
    else:
        assert found.balanced_accuracy is None


@given(VALUES)
def test_auc_is_that_of_sklearn(pairs):
    values, truth = (np.array(column) for column in zip(*pairs, strict=True))
    found = Outcomes.of(values.astype(float), truth).auc
    assert found == pytest.approx(metrics.roc_auc_score(truth, values)) if len(set(truth)) == 2 else found is None


def test_a_prediction_counts_as_yes_from_the_threshold_on():
    predicted, truth = np.array([0.2, 0.5, 0.7, 0.5]), np.array([False, True, True, False])
    assert Outcomes.of(predicted, truth).recall == 1
    assert Outcomes.of(predicted, truth).precision == pytest.approx(2 / 3)
    assert Outcomes.of(predicted, truth, threshold=0.6).recall == 0.5


def test_pearson_is_that_of_numpy_also_from_sums():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 50))
    sums = [a.sum(), b.sum(), a @ a, b @ b, a @ b]
    assert pearson(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert pearson_of_sums(50, *(float(number) for number in sums)) == pytest.approx(pearson(a, b))


def test_the_correlation_with_a_constant_is_not_defined():
    a, constant = np.arange(5.0), np.full(5, 0.1)
    assert pearson(a, constant) is None
    assert pearson(a[:1], a[:1]) is None
    assert pearson_of_sums(5, a.sum(), 0.5, a @ a, constant @ constant, a @ constant) is None
    assert pearson_of_sums(5, a.sum(), 0.0, a @ a, 0.0, 0.0) is None


def test_activations_become_whole_numbers_from_0_to_10_rounded_up():
    assert normalised(np.array([0, 0.01, 0.5, 0.51, 1, 2]), 1.0).tolist() == [0, 1, 5, 6, 10, 10]
    assert normalised(np.zeros(2), 0.0).tolist() == [0, 0]
