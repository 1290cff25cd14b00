"""Sources of scores: parts of one matrix, whichever way they are asked for; and rough scores with honest bounds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_core.matching.score_sources import (
    CoarseSource,
    CoarseUnitRows,
    ScoreSource,
    Transposed,
    UnitRows,
    paired_scores,
    transposed,
    unit_row_scores,
)


def unit(W: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(W / np.linalg.norm(W, axis=1, keepdims=True)).float()


def pair(n_a: int, n_b: int, d: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return unit(rng.standard_normal((n_a, d))), unit(rng.standard_normal((n_b, d)))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("kind", [UnitRows, CoarseUnitRows, lambda a, b, s: Transposed(UnitRows(b, a, s))])
def test_blocks_and_products_are_parts_of_the_same_matrix(kind, signed):
    a, b = pair(9, 7, 5)
    source, whole = kind(a, b, signed), (a.double() @ b.double().T).numpy()
    whole = whole if signed else np.abs(whole)
    assert isinstance(source, ScoreSource)
    assert source.shape == (9, 7)
    np.testing.assert_allclose(source.block(slice(2, 6)), whole[2:6], atol=1e-6)
    rows, columns = np.array([8, 0, 3]), np.array([6, 6, 1])
    np.testing.assert_allclose(source.products(rows, columns), whole[np.ix_(rows, columns)], atol=1e-6)
    np.testing.assert_allclose(paired_scores(source, rows, columns), whole[rows, columns], atol=1e-6)
    np.testing.assert_allclose(transposed(source).block(slice(0, 7)), whole.T, atol=1e-6)


def test_scores_of_many_pairs_are_those_of_each():
    a, b = pair(200, 200, 5)
    order = np.random.default_rng(0).permutation(200)
    expected = (a.double() * b[order].double()).sum(dim=1).abs().numpy()
    np.testing.assert_allclose(paired_scores(UnitRows(a, b), np.arange(200), order), expected, atol=1e-6)


def values_of(keys: np.ndarray) -> np.ndarray:
    """The bfloat16 numbers behind keys."""
    bits = np.where(keys < 0, keys ^ 0x7FFF, keys).astype(np.int32) << 16
    return bits.view(np.float32)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_a=st.integers(1, 20),
    n_b=st.integers(1, 20),
    d=st.integers(1, 600),
    kind=st.sampled_from(["normal", "heavy", "equal", "sparse"]),
    signed=st.booleans(),
)
def test_no_score_is_above_the_bound_of_its_rough_score(seed, n_a, n_b, d, kind, signed):
    rng = np.random.default_rng(seed)
    made = []
    for n in (n_a, n_b):
        W = rng.standard_normal((n, d))
        W = {"normal": W, "heavy": W**5, "equal": np.sign(W), "sparse": W * (rng.random((n, d)) < 0.1)}[kind]
        W[~W.any(axis=1), 0] = 1.0
        made.append(unit(W))
    a, b = made
    source, score = CoarseUnitRows(a, b, signed), (a.double() @ b.double().T).numpy()
    score = score if signed else np.abs(score)
    keys = source.coarse_block(slice(0, n_a)).copy()
    order = np.argsort(keys.ravel())
    assert (np.diff(values_of(keys).ravel()[order]) >= 0).all()
    for i in range(n_a):
        for j in range(n_b):
            by_row, by_column = source.upper_bounds(np.full(n_a, keys[i, j]), np.full(n_b, keys[i, j]))
            assert score[i, j] <= min(by_row[i], by_column[j])
            assert min(by_row[i], by_column[j]) - score[i, j] < 0.03


def test_listed_scores_are_exact():
    a, b = pair(6, 8, 50)
    start, column = np.array([0, 2, 2, 3, 5, 5, 8]), np.array([0, 7, 3, 1, 2, 0, 4, 5], np.int32)
    rows = np.repeat(np.arange(6), np.diff(start))
    expected = (a[rows].double() * b[column.astype(np.int64)].double()).sum(dim=1).numpy()
    np.testing.assert_allclose(CoarseUnitRows(a, b, True).listed(start, column), expected, atol=1e-6)
    np.testing.assert_allclose(CoarseUnitRows(a, b).listed(start, column), np.abs(expected), atol=1e-6)


def test_rough_scores_are_used_where_the_processor_is_fast_at_them(monkeypatch):
    a, b = pair(3, 3, 4)
    for fast in (False, True):
        monkeypatch.setattr("sae_core.matching.score_sources.has_fast_bfloat16", lambda fast=fast: fast)
        assert isinstance(unit_row_scores(a, b), CoarseSource) == fast
