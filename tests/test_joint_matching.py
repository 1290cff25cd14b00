"""Matching by decoder and encoder together, and by any other source of scores."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from sae_core.matching import JointMatching, match, match_joint, match_scores


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def unit(W: np.ndarray) -> np.ndarray:
    return W / np.linalg.norm(W, axis=1, keepdims=True)


def sae(rng: np.random.Generator, n: int, d_in: int = 6, d_out: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Decoder and encoder."""
    return rng.standard_normal((n, d_out)), rng.standard_normal((d_in, n))


def cosines(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return unit(a[0]) @ unit(b[0]).T, unit(a[1].T) @ unit(b[1].T).T


def check(found: JointMatching, a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> None:
    decoder, encoder = cosines(a, b)
    mean, matching = (decoder + encoder) / 2, found.matching
    score = mean if matching.signed else np.abs(mean)
    places = matching.left, matching.right
    assert len(set(matching.left)) == len(set(matching.right)) == min(score.shape)
    assert matching.certified
    assert matching.mcc == pytest.approx(score[linear_sum_assignment(score, maximize=True)].mean(), abs=1e-6)
    np.testing.assert_allclose(found.decoder_cosine, decoder[places], atol=1e-12)
    np.testing.assert_allclose(found.encoder_cosine, encoder[places], atol=1e-12)
    np.testing.assert_allclose(matching.cosine, mean[places], atol=1e-12)
    np.testing.assert_allclose(matching.best_left, score.max(axis=1), atol=1e-6)
    np.testing.assert_allclose(matching.best_right, score.max(axis=0), atol=1e-6)


def test_a_pair_counts_half_by_its_decoder_and_half_by_its_encoder():
    # Decoders agree index by index, encoders crosswise and better.
    W_dec_a, W_dec_b = np.eye(2), np.array([[0.8, 0.6], [0.6, 0.8]])
    W_enc_a, W_enc_b = np.eye(2), np.array([[0.0, 1.0], [1.0, 0.0]])
    found = match_joint(W_dec_a, W_enc_a, W_dec_b, W_enc_b)
    assert found.matching.right.tolist() == [1, 0]
    assert found.decoder_cosine == pytest.approx([0.6, 0.6])
    assert found.encoder_cosine == pytest.approx([1, 1])
    assert found.matching.mcc == pytest.approx(0.8)
    assert match(W_dec_a, W_dec_b).right.tolist() == [0, 1]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    widths=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    signed=st.booleans(),
    method=st.sampled_from(["dense", "sparse"]),
)
def test_it_is_the_optimum_of_the_mean_cosine(seed, sizes, widths, signed, method):
    rng = np.random.default_rng(seed)
    a, b = (sae(rng, n, *widths) for n in sizes)
    check(match_joint(*a, *b, signed, method=method), a, b)


def test_permuting_scaling_and_flipping_whole_features_changes_nothing(rng):
    W_dec, W_enc = sae(rng, 30)
    order, sign, scale = rng.permutation(30), rng.choice([-1.0, 1.0], 30), rng.uniform(0.1, 9, 30)
    found = match_joint(W_dec, W_enc, (W_dec * (sign * scale)[:, None])[order], (W_enc * sign / scale)[:, order])
    assert found.matching.mcc == pytest.approx(1)
    np.testing.assert_array_equal(found.matching.left, order[found.matching.right])


def test_a_feature_flipped_in_the_decoder_only_cancels(rng):
    W_dec, W_enc = sae(rng, 1)
    found = match_joint(W_dec, W_enc, -W_dec, W_enc)
    assert found.matching.mcc == pytest.approx(0, abs=1e-12)
    assert (found.decoder_cosine[0], found.encoder_cosine[0]) == (pytest.approx(-1), pytest.approx(1))


@pytest.mark.parametrize("method", ["dense", "sparse"])
def test_features_without_decoder_or_encoder_are_left_out_and_counted(rng, method):
    a, b = sae(rng, 12), sae(rng, 15)
    a[0][3], a[1][:, 7], b[1][:, 0] = 0, 0, 0
    found = match_joint(*a, *b, method=method)
    kept = np.setdiff1d(np.arange(12), [3, 7])
    plain = match_joint(a[0][kept], a[1][:, kept], b[0][1:], b[1][:, 1:], method=method)
    assert (found.matching.n_excluded_left, found.matching.n_excluded_right) == (2, 1)
    np.testing.assert_array_equal(found.matching.left, kept[plain.matching.left])
    np.testing.assert_array_equal(found.matching.right, 1 + plain.matching.right)
    assert (found.matching.nearest_left[[3, 7]] == -1).all()
    assert found.matching.nearest_right[0] == -1


def test_half_precision_tensors_and_strided_encoders_are_accepted(rng):
    a, b = ([torch.from_numpy(W).half() for W in sae(rng, 20)] for _ in range(2))
    exact = match_joint(*(W.double().numpy() for W in (*a, *b)))
    found = match_joint(a[0], a[1].T.contiguous().T, *b, method="sparse")
    assert found.matching.mcc == pytest.approx(exact.matching.mcc, abs=1e-6)


def test_an_encoder_that_is_not_that_of_the_decoder_is_refused(rng):
    (W_dec, W_enc), b = sae(rng, 8), sae(rng, 9)
    with pytest.raises(ValueError, match=r"seed 1: the encoder must be \(d_in, features\) .* 8 rows .* got \(8, 6\)"):
        match_joint(W_dec, W_enc.T.copy(), *b, names=("seed 1", "seed 2"))
    with pytest.raises(ValueError, match="same d_in: the encoder of left has 6, the encoder of right has 5"):
        match_joint(W_dec, W_enc, b[0], b[1][:5])


def test_an_encoder_that_is_not_finite_is_refused_by_its_feature(rng):
    a, b = sae(rng, 8), sae(rng, 9)
    b[1][2, 5] = np.nan
    with pytest.raises(ValueError, match="the encoder of right .columns as rows.: row 5 is not finite"):
        match_joint(*a, *b)


def test_features_that_all_lack_one_of_the_two_are_refused(rng):
    a, b = sae(rng, 2), sae(rng, 2)
    b[0][0], b[1][:, 1] = 0, 0
    with pytest.raises(ValueError, match="right: no feature has a direction in both decoder and encoder"):
        match_joint(*a, *b)


class Table:
    """Scores that are simply there; blocks come in one buffer, as a source may do."""

    def __init__(self, scores: np.ndarray) -> None:
        self.scores = scores.astype(np.float32)
        self._buffer = np.empty_like(self.scores)

    @property
    def shape(self) -> tuple[int, int]:
        n_rows, n_columns = self.scores.shape
        return n_rows, n_columns

    def block(self, rows: slice) -> np.ndarray:
        found = self.scores[rows]
        self._buffer[: len(found)] = found
        return self._buffer[: len(found)]

    def products(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return self.scores[np.ix_(rows, columns)]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    levels=st.sampled_from([None, 1, 3]),
    method=st.sampled_from(["dense", "sparse"]),
)
def test_any_scores_are_matched_exactly(seed, sizes, levels, method):
    scores = np.random.default_rng(seed).uniform(-1, 1, sizes)
    if levels is not None:
        scores = np.round(scores * levels) / levels
    table = Table(scores)
    found = match_scores(table, method=method)
    exact = table.scores.astype(np.float64)
    assert found.mcc == pytest.approx(exact[linear_sum_assignment(exact, maximize=True)].mean(), abs=1e-6)
    assert found.certified
    assert found.signed
    np.testing.assert_allclose(found.cosine, exact[found.left, found.right], atol=1e-12)
    np.testing.assert_array_equal(found.best_left, exact.max(axis=1))
    np.testing.assert_array_equal(found.nearest_left, exact.argmax(axis=1))
    np.testing.assert_array_equal(found.nearest_right, exact.argmax(axis=0))


def test_scores_without_rows_are_refused():
    with pytest.raises(ValueError, match=r"nothing to match: the scores have shape \(0, 3\)"):
        match_scores(Table(np.zeros((0, 3))))
