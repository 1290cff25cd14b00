"""Activations of matched features: against numpy on small dense data."""

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy import sparse

from sae_core.architectures import build
from sae_core.config import TopKConfig
from sae_core.consistency.activation_matching import activation_agreement, decoder_candidates, match_activations
from sae_core.consistency.correlations import Correlations, correlations, jaccard
from sae_core.consistency.sparse_codes import SparseCodes, collect_codes, encode_blocks, held_out_codes
from sae_core.matching import match
from sae_core.matching.score_sources import ScoreSource

N_TOKENS = 400


def dense_codes(rng: np.random.Generator, n: int, share: float = 0.15) -> np.ndarray:
    """(tokens, features), mostly zeros."""
    return (rng.random((N_TOKENS, n)) < share) * np.abs(rng.standard_normal((N_TOKENS, n))).astype(np.float32)


def collected(name: str, dense: np.ndarray, n_blocks: int = 3) -> SparseCodes:
    return collect_codes(name, [sparse.csr_array(block) for block in np.array_split(dense, n_blocks)])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def pair(rng):
    """Two runs that share their first features, at other places and noisily."""
    a, b = dense_codes(rng, 12), dense_codes(rng, 15)
    b[:, 3:11] = a[:, :8] * (rng.random((N_TOKENS, 8)) < 0.8)
    a[:, 10], b[:, 1] = 0, 0.5  # a dead feature, and one that is always on by the same amount
    return a, b


def test_correlation_and_jaccard_are_those_of_numpy(pair):
    a, b = pair
    left, right = np.repeat(np.arange(12), 15), np.tile(np.arange(15), 12)
    codes = collected("a", a), collected("b", b)
    with np.errstate(invalid="ignore"):
        expected = np.corrcoef(a.T.astype(float), b.T.astype(float))[:12, 12:]
    np.testing.assert_allclose(correlations(*codes, left, right).reshape(12, 15), expected, atol=1e-9)
    both = ((a[:, :, None] > 0) & (b[:, None] > 0)).sum(axis=0)
    either = ((a[:, :, None] > 0) | (b[:, None] > 0)).sum(axis=0)
    np.testing.assert_allclose(jaccard(*codes, left, right).reshape(12, 15), both / either)


def test_two_features_that_never_fire_have_neither_correlation_nor_jaccard():
    dead = collected("dead", np.zeros((N_TOKENS, 2)))
    assert np.isnan(correlations(dead, dead, np.array([0]), np.array([1]))).all()
    assert np.isnan(jaccard(dead, dead, np.array([0]), np.array([1]))).all()


def test_a_feature_agrees_with_itself_and_scale_changes_nothing(rng):
    a = dense_codes(rng, 6)
    codes, scaled = collected("a", a), collected("b", 7 * a)
    same = np.arange(6)
    assert correlations(codes, scaled, same, same) == pytest.approx(1)
    assert jaccard(codes, scaled, same, same) == pytest.approx(1)


def test_blocks_of_tokens_may_be_of_any_size(pair):
    whole, parts = collected("a", pair[0], 1), collected("a", pair[0], 37)
    assert (whole.codes != parts.codes).nnz == 0
    np.testing.assert_allclose(whole.mean, pair[0].mean(axis=0), rtol=1e-6)
    assert (whole.n_fired == (pair[0] > 0).sum(axis=0)).all()
    assert whole.n_tokens == parts.n_tokens == N_TOKENS


def test_constant_and_dead_features_do_not_vary(pair):
    assert collected("a", pair[0]).varies.tolist() == [i for i in range(12) if i != 10]
    assert collected("b", pair[1]).varies.tolist() == [i for i in range(15) if i != 1]


@pytest.mark.parametrize("signed", [False, True])
def test_the_source_of_scores_gives_the_correlations_of_features_that_vary(pair, signed):
    a, b = (collected(name, dense) for name, dense in zip("ab", pair, strict=True))
    source = Correlations(a, b, signed)
    assert isinstance(source, ScoreSource)
    expected = np.corrcoef(pair[0][:, a.varies].T.astype(float), pair[1][:, b.varies].T.astype(float))[:11, 11:]
    expected = expected if signed else np.abs(expected)
    assert source.shape == (11, 14)
    np.testing.assert_allclose(source.block(slice(0, 11)), expected, atol=1e-6)
    rows, columns = np.array([5, 0, 9]), np.array([13, 2])
    np.testing.assert_array_equal(source.products(rows, columns), source.block(slice(0, 11))[np.ix_(rows, columns)])


def test_the_matching_by_activations_is_the_best_of_all(rng):
    a, b = dense_codes(rng, 5), dense_codes(rng, 6)
    found = match_activations(collected("a", a), collected("b", b))
    r = np.abs(np.corrcoef(a.T.astype(float), b.T.astype(float))[:5, 5:])
    best = max(r[np.arange(5), list(order)].mean() for order in permutations(range(6), 5))
    assert found.mcc == pytest.approx(best)
    assert found.certified
    np.testing.assert_allclose(np.abs(found.cosine), r[found.left, found.right], atol=1e-9)


def test_features_that_do_not_vary_are_excluded_and_counted_and_numbers_are_those_of_the_runs(pair):
    codes = collected("a", pair[0]), collected("b", pair[1])
    found = match_activations(*codes)
    assert (found.n_excluded_left, found.n_excluded_right) == (1, 1)
    assert 10 not in found.left
    assert 1 not in found.right
    partner = dict(zip(found.left.tolist(), found.right.tolist(), strict=True))
    assert [partner[i] for i in range(8)] == list(range(3, 11))
    assert np.isnan(found.best_left[10])
    assert found.nearest_left[10] == -1
    assert found.nearest_left[:8].tolist() == list(range(3, 11))
    assert found.nearest_right[3:11].tolist() == list(range(8))
    assert found.cosine == pytest.approx(correlations(*codes, found.left, found.right))


def test_the_matching_does_not_depend_on_block_or_order(pair, rng):
    order = rng.permutation(15)
    a, b, shuffled = collected("a", pair[0]), collected("b", pair[1]), collected("b", pair[1][:, order])
    found, other = match_activations(a, b), match_activations(a, shuffled)
    assert other.mcc == pytest.approx(found.mcc)
    back = match_activations(b, a)
    assert back.mcc == pytest.approx(found.mcc)


def test_candidates_are_the_nearest_features_by_decoder(rng):
    W_a, W_b = rng.standard_normal((30, 8)), rng.standard_normal((40, 8))
    W_a[4], W_b[7] = 0, 0
    with np.errstate(invalid="ignore"):
        unit = [W / np.linalg.norm(W, axis=1, keepdims=True) for W in (W_a, W_b)]
    cosine = np.nan_to_num(np.abs(unit[0] @ unit[1].T), nan=-1)
    found = decoder_candidates(W_a, W_b)
    assert found.shape == (30, 5)
    assert found[4].tolist() == [-1] * 5
    rest = np.arange(30) != 4
    assert (found[rest] == np.argsort(-cosine, axis=1)[rest, :5]).all()
    assert decoder_candidates(W_a, W_b[:3])[0].tolist().count(-1) == 2


def test_agreement_by_hand(pair, rng):
    a, b = pair
    W_a, W_b = rng.standard_normal((12, 30)), rng.standard_normal((15, 30))
    W_b[3:11] = W_a[:8]
    codes, by_decoder = (collected("a", a), collected("b", b)), match(W_a, W_b)
    candidates = decoder_candidates(W_a, W_b)
    found = activation_agreement(*codes, by_decoder.left, by_decoder.right, candidates)
    with np.errstate(invalid="ignore"):
        r = np.abs(np.corrcoef(a.T.astype(float), b.T.astype(float))[:12, 12:])
    matched = r[by_decoder.left, by_decoder.right]
    compared = ~np.isnan(matched)
    assert (found.n_tokens, found.n_matched, found.n_compared) == (N_TOKENS, 12, compared.sum())
    assert found.mean_correlation == pytest.approx(matched[compared].mean())
    best = np.array([np.nanmax(r[i, candidates[i]]) for i in range(12) if i != 10])
    assert found.mean_best_candidate == pytest.approx(best.mean())
    assert found.share_partner_best >= 8 / 12
    assert found.pw_mcc_activations == pytest.approx(match_activations(*codes).mcc) == pytest.approx(found.upper_bound)
    assert found.share_same_partner >= 8 / 12
    assert found.reason is None
    without = activation_agreement(*codes, by_decoder.left, by_decoder.right, candidates, own_matching=False)
    assert without.pw_mcc_activations is None
    assert "own_matching is off" in without.reason


def test_when_nothing_fires_there_is_no_agreement_and_the_result_says_why(rng):
    dead = collected("dead", np.zeros((N_TOKENS, 4)))
    W = rng.standard_normal((4, 6))
    found = activation_agreement(dead, dead, np.arange(4), np.arange(4), decoder_candidates(W, W))
    assert found.mean_correlation is found.mean_jaccard is found.pw_mcc_activations is None
    assert found.n_compared == 0
    assert "no matched pair of which both features vary" in found.reason


def test_codes_are_those_of_the_sae(rng):
    sae = build(TopKConfig(d_sae=16, k=3), d_in=6, seed=0)
    x = torch.from_numpy(rng.standard_normal((50, 6)).astype(np.float32))
    codes = collect_codes("a", encode_blocks(sae, x.split(20)))
    np.testing.assert_allclose(codes.codes.toarray().T, sae.encode(x).detach().numpy(), atol=1e-6)


def test_codes_on_shards_stop_at_the_tokens_asked_for(rng, tmp_path):
    from sae_core.shards import ShardData, write_shards

    x = rng.standard_normal((90, 6)).astype(np.float32)
    parts = []
    for part in (slice(0, 40), slice(40, 90)):
        ids = np.arange(90)[part]
        parts.append(ShardData(torch.from_numpy(x[part]), ids.astype(np.int32), ids, (ids % 7).astype(np.int32)))
    shards = write_shards(tmp_path, parts, dtype="float32")
    sae, calls = build(TopKConfig(d_sae=16, k=3), d_in=6, seed=0), []
    codes = held_out_codes("a", sae, shards, 55, lambda *call: calls.append(call))
    assert codes.n_tokens == 55
    expected = sae.encode(torch.from_numpy(x[:55])).detach().numpy()
    np.testing.assert_allclose(codes.codes.toarray().T, expected, atol=1e-6)
    assert calls[-1][:2] == (55, 55)
    assert held_out_codes("a", sae, shards).n_tokens == 90
    with pytest.raises(ValueError, match="a reads activations of width 8, the shards hold 6"):
        held_out_codes("a", build(TopKConfig(d_sae=16, k=3), d_in=8, seed=0), shards)


def test_different_numbers_of_tokens_are_refused(rng):
    a, b = collected("a", dense_codes(rng, 4)), collected("b", dense_codes(rng, 4)[:300])
    for compare in (lambda: correlations(a, b, np.array([0]), np.array([0])), lambda: match_activations(a, b)):
        with pytest.raises(ValueError, match="the same tokens: a has 400, b has 300"):
            compare()


def test_a_run_in_which_nothing_varies_cannot_be_matched(rng):
    with pytest.raises(ValueError, match="dead: no feature varies over the 400 tokens"):
        match_activations(collected("a", dense_codes(rng, 4)), collected("dead", np.zeros((N_TOKENS, 4))))


def test_no_tokens_other_widths_and_codes_that_are_not_finite_are_refused(rng):
    with pytest.raises(ValueError, match="a: correlations need tokens, got none"):
        collect_codes("a", [])
    blocks = [sparse.csr_array(np.ones((3, 4))), sparse.csr_array(np.ones((3, 5)))]
    with pytest.raises(ValueError, match=r"same number of features: got \[4, 5\]"):
        collect_codes("a", blocks)
    dense = dense_codes(rng, 4)
    dense[7, 2] = np.nan
    with pytest.raises(ValueError, match="an activation of feature 2 is not finite"):
        collected("a", dense)
