"""Duplicates inside one dictionary: against the whole product, on constructed groups, and what is refused."""

import numpy as np
import pytest
import torch

from sae_core.consistency import duplicates as module
from sae_core.consistency.duplicates import find_duplicates, merge_duplicates
from sae_core.matching import match


def unit(W: np.ndarray) -> np.ndarray:
    return W / np.linalg.norm(W, axis=1, keepdims=True)


def near(direction: np.ndarray, cosine: float, rng: np.random.Generator) -> np.ndarray:
    """A unit vector with this cosine with a unit vector."""
    other = rng.standard_normal(len(direction))
    other -= (other @ direction) * direction
    return cosine * direction + np.sqrt(1 - cosine**2) * other / np.linalg.norm(other)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("block", [1, 7, 1000])
@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_nearest_and_groups_are_those_of_the_whole_product(rng, monkeypatch, block, threshold):
    monkeypatch.setattr(module, "_BLOCK_ENTRIES", 60 * block)
    monkeypatch.setattr(module, "_LEAST_BLOCK_ROWS", 1)
    W = rng.standard_normal((60, 4)) * rng.uniform(0.1, 9, (60, 1))
    cosines = np.abs(unit(W) @ unit(W).T)
    np.fill_diagonal(cosines, -1)
    found = find_duplicates(W, threshold)
    np.testing.assert_allclose(found.nearest, cosines.max(axis=1), atol=1e-6)
    assert (found.nearest_feature == cosines.argmax(axis=1)).all()
    reached = np.linalg.matrix_power((cosines > threshold).astype(float) + np.eye(60), 60) > 0
    np.testing.assert_array_equal(found.group[:, None] == found.group[None], reached)
    assert found.n_duplicates == (reached.sum(axis=1) > 1).sum()
    assert found.uniqueness == pytest.approx(len({tuple(row) for row in reached}) / 60)


def test_duplicates_of_either_sign_and_length_are_merged_into_their_mean_direction(rng):
    a, b, c = np.eye(8)[:3]
    twin = near(a, 0.97, rng)
    W = np.stack([b, a, -3 * twin, c, 0.5 * b])
    found = find_duplicates(W)
    assert found.group.tolist() == [0, 1, 1, 2, 0]
    assert (found.n_groups, found.n_duplicates, found.uniqueness) == (3, 4, pytest.approx(3 / 5))
    assert found.nearest_feature.tolist()[:3] == [4, 2, 1]
    assert found.nearest[:3] == pytest.approx([1, 0.97, 0.97], abs=1e-6)
    merged = merge_duplicates(W, found)
    np.testing.assert_allclose(merged, [b, unit((a + twin)[None])[0], c], atol=1e-12)


def test_a_chain_of_duplicates_is_one_group_although_its_ends_differ():
    angles = np.deg2rad([0, 15, 30, 45, 120])  # cos 15 = .966, cos 30 = .87
    W = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = find_duplicates(W)
    assert found.group.tolist() == [0, 0, 0, 0, 1]
    middle = np.deg2rad(22.5)
    np.testing.assert_allclose(merge_duplicates(W, found)[0], [np.cos(middle), np.sin(middle)], atol=1e-12)


def test_merging_does_not_depend_on_the_signs_of_the_members(rng):
    centre = rng.standard_normal(6)
    W = centre + 0.1 * rng.standard_normal((9, 6))
    signs = rng.choice([-1, 1], (9, 1))
    merged, flipped = (merge_duplicates(X, find_duplicates(X, 0.9)) for X in (W, signs * W))
    assert len(merged) == len(flipped) == 1
    np.testing.assert_allclose(flipped[0] * signs[0], merged[0], atol=1e-12)
    np.testing.assert_allclose(merged[0], unit(unit(W).sum(axis=0, keepdims=True))[0], atol=1e-12)


def test_a_dictionary_without_duplicates_stays_as_it_is_but_for_lengths(rng):
    W = rng.standard_normal((10, 50))
    found = find_duplicates(W)
    assert found.group.tolist() == list(range(10))
    assert (found.n_duplicates, found.uniqueness) == (0, 1)
    np.testing.assert_allclose(merge_duplicates(W, found), unit(W), atol=1e-12)


def test_rows_of_zeros_are_in_no_group(rng):
    W = np.concatenate([np.zeros((2, 5)), np.eye(5), np.eye(5)[:1], np.zeros((1, 5))])
    found = find_duplicates(W)
    assert found.group.tolist() == [-1, -1, 0, 1, 2, 3, 4, 0, -1]
    assert np.isnan(found.nearest[[0, 1, 8]]).all()
    assert found.nearest_feature[[0, 1, 8]].tolist() == [-1, -1, -1]
    assert found.nearest_feature[2] == 7
    assert merge_duplicates(W, found).shape == (5, 5)


def test_a_single_feature_has_no_other():
    found = find_duplicates(np.ones((1, 3)))
    assert np.isnan(found.nearest).all()
    assert found.nearest_feature.tolist() == [-1]
    assert (found.n_groups, found.uniqueness) == (1, 1)


def test_merging_what_one_run_holds_twice_makes_it_match_one_that_holds_it_once(rng):
    shared = rng.standard_normal((20, 64))
    twice = np.concatenate([shared, shared[:10] + 0.01 * rng.standard_normal((10, 64))])
    padded = np.concatenate([shared, rng.standard_normal((10, 64))])
    merged = merge_duplicates(twice, find_duplicates(twice))
    assert match(twice, padded).mcc < 0.8
    assert match(merged, padded).mcc > 0.999


def test_torch_and_numpy_in_any_precision_agree(rng):
    W = rng.standard_normal((40, 8))
    expected = find_duplicates(W, 0.8)
    for given in (torch.from_numpy(W), W.astype(np.float32), torch.from_numpy(W).to(torch.float32)):
        found = find_duplicates(given, 0.8)
        np.testing.assert_allclose(found.nearest, expected.nearest, atol=1e-6)
        assert (found.group == expected.group).all()


def test_a_row_that_is_not_finite_is_refused_by_name():
    W = np.eye(4)
    W[2, 1] = np.nan
    with pytest.raises(ValueError, match="seed 3: row 2 is not finite"):
        find_duplicates(W, name="seed 3")


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.5])
def test_a_threshold_outside_the_open_unit_interval_is_refused(threshold):
    with pytest.raises(ValueError, match=r"threshold in \(0, 1\)"):
        find_duplicates(np.eye(3), threshold)


def test_duplicates_of_another_dictionary_are_refused():
    with pytest.raises(ValueError, match="of a dictionary of 3 features, this one has 4"):
        merge_duplicates(np.eye(4), find_duplicates(np.eye(3)))
