"""The consensus of runs: what it finds of a known dictionary, and what changes nothing."""

import numpy as np
import pytest
from scipy.optimize import minimize

from sae_core.consistency.consensus_dictionary import consensus
from sae_core.consistency.consensus_summary import consensus_summary, consensus_table
from sae_core.consistency.geometric_medians import geometric_medians
from sae_core.consistency.group_comparison import disjoint_groups
from sae_core.consistency.runs import Run
from sae_core.matching import match
from tests.planted_runs import matched, named, truth_and_runs, unit

# --- the median -------------------------------------------------------------------------------------------------


def test_the_geometric_median_has_the_smallest_sum_of_distances():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((5, 6, 3)) * rng.uniform(0.01, 100, (5, 1, 1))
    medians = geometric_medians(vectors, np.ones((5, 6), bool))
    for points, found in zip(vectors, medians, strict=True):

        def total(x: np.ndarray, points: np.ndarray = points) -> float:
            return float(np.linalg.norm(points - x, axis=1).sum())

        best = minimize(total, points.mean(axis=0), method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-12}).fun
        assert total(found) == pytest.approx(best, rel=1e-6)


def test_two_vectors_have_their_mean_and_a_majority_of_equals_has_itself():
    x, y, z = np.eye(3)
    everyone = np.ones((1, 3), bool)
    assert geometric_medians(np.array([[x, 3 * y]]), everyone[:, :2]) == pytest.approx(np.array([[0.5, 1.5, 0]]))
    assert geometric_medians(np.array([[x, x, 50 * y]]), everyone) == pytest.approx(np.array([x])[:1], abs=1e-4)
    assert geometric_medians(np.array([[x, y, z]]), everyone) == pytest.approx(np.full((1, 3), 1 / 3))
    only_z = np.array([[False, False, True]])
    assert geometric_medians(np.array([[x, y, z]]), only_z) == pytest.approx(np.array([z]))
    assert geometric_medians(np.array([[x, y, z]]), ~everyone).tolist() == [[0, 0, 0]]


def test_the_geometric_median_turns_with_its_vectors():
    rng = np.random.default_rng(1)
    vectors, (rotation, _) = rng.standard_normal((4, 5, 6)), np.linalg.qr(rng.standard_normal((6, 6)))
    everyone = np.ones((4, 5), bool)
    turned = geometric_medians(vectors @ rotation, everyone)
    assert turned == pytest.approx(geometric_medians(vectors, everyone) @ rotation)


# --- a known dictionary -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_runs", [2, 3, 5, 10])
def test_the_consensus_is_closer_to_the_truth_than_any_run(n_runs):
    truth, runs = truth_and_runs(n_runs)
    found = consensus(runs, matched(runs))
    singles = [match(truth, run.W_dec) for run in runs]
    # Even against the features of a run that happen to be closest to the truth, as many as the consensus has.
    best = [np.sort(single.score)[-found.n_features :].mean() for single in singles]
    assert match(truth, found.W_dec).mcc > max(best) + 0.005
    assert 40 <= found.n_features <= 60
    assert found.converged
    assert found.certified


def test_more_runs_come_closer_to_the_truth():
    values = []
    for n_runs in (2, 3, 5, 10):
        truth, runs = truth_and_runs(n_runs, seed=3)
        values.append(match(truth, consensus(runs, matched(runs)).W_dec).mcc)
    assert values == sorted(values)
    assert values[-1] > 0.99


def test_what_the_medoid_lacks_is_found_all_the_same():
    truth, runs = truth_and_runs(6, n_junk=0, missing=0.0, noise=0.2)
    matchings = matched(runs)
    medoid = consensus(runs, matchings).medoid
    lost = match(truth, runs[medoid].W_dec).right[:5]
    W = runs[medoid].W_dec.copy()
    W[lost] = np.random.default_rng(9).standard_normal((5, W.shape[1]))
    others = list(runs)
    others[medoid] = Run(runs[medoid].name, W)
    found = consensus(others, matched(others))
    assert found.n_features == 60
    assert match(truth, found.W_dec).best_left.min() > 0.95
    assert ((found.members >= 0).sum(axis=0)[medoid], found.support.min()) == (55, 5)


def test_members_are_the_rows_they_are_said_to_be():
    _, runs = truth_and_runs(5)
    found = consensus(runs, matched(runs), tau=0.8)
    assert np.linalg.norm(found.W_dec, axis=1) == pytest.approx(1)
    assert found.support.min() >= found.min_support == 3
    for number, run in enumerate(runs):
        there = found.members[:, number] >= 0
        rows = found.members[there, number]
        assert len(set(rows.tolist())) == len(rows)
        cosine = (unit(run.W_dec[rows]) * found.W_dec[there]).sum(axis=1)
        assert found.cosine[there, number] == pytest.approx(cosine)
        assert np.isnan(found.cosine[~there, number]).all()
    for row, cosines, spread in zip(found.members, found.cosine, found.spread, strict=True):
        members = [run.W_dec[i] * np.sign(c) for run, i, c in zip(runs, row, cosines, strict=True) if i >= 0]
        gram = unit(np.array(members)) @ unit(np.array(members)).T
        n = len(members)
        assert spread == pytest.approx(1 - (gram.sum() - n) / (n * (n - 1)))
        assert gram.max(axis=0).min() >= 0.8
    assert ((found.cosine > 0).sum(axis=1) >= (found.cosine < 0).sum(axis=1)).all()
    assert found.n_opposed == (found.cosine < 0).sum() > 0


def test_one_run_that_is_wrong_does_not_move_the_consensus():
    _, runs = truth_and_runs(5, missing=0.0, n_junk=0, noise=0.1)
    before = consensus(runs, matched(runs))
    junk = [*runs[:4], Run("junk", np.random.default_rng(5).standard_normal(runs[4].W_dec.shape))]
    after = consensus(junk, matched(junk))
    assert after.n_features == before.n_features == 60
    assert (after.members[:, 4] == -1).all()
    assert match(before.W_dec, after.W_dec).score.min() > 0.995


def test_runs_that_share_nothing_have_no_consensus():
    rng = np.random.default_rng(0)
    runs = named(*(rng.standard_normal((40, 64)) for _ in range(3)))
    found = consensus(runs, matched(runs))
    assert (found.n_features, found.W_dec.shape, found.members.shape) == (0, (0, 64), (0, 3))
    assert (found.n_rounds, found.converged) == (1, True)
    summary = consensus_summary(found)
    assert (summary.n_features, summary.mean_spread, summary.mean_support) == (0, None, None)
    assert len(consensus_table(found)) == 0


def test_identical_runs_have_themselves_as_consensus():
    W = np.random.default_rng(0).standard_normal((20, 8))
    found = consensus(named(W, W, W), matched(named(W, W, W)))
    assert found.W_dec == pytest.approx(unit(W))
    assert found.members.tolist() == [[i, i, i] for i in range(20)]
    assert found.spread == pytest.approx(0, abs=1e-12)
    assert (found.n_rounds, found.medoid, found.n_opposed) == (2, 0, 0)


# --- what changes nothing ---------------------------------------------------------------------------------------


def test_permuting_scaling_and_flipping_features_changes_nothing_but_signs():
    rng, (_, runs) = np.random.default_rng(4), truth_and_runs(5, noise=0.2)
    orders = [rng.permutation(len(run.W_dec)) for run in runs]
    changed = named(*(rng.choice([-2.0, 3.0], (len(o), 1)) * run.W_dec[o] for run, o in zip(runs, orders, strict=True)))
    before, after = consensus(runs, matched(runs)), consensus(changed, matched(changed))
    assert (before.medoid, before.n_features, before.n_rounds) == (after.medoid, after.n_features, after.n_rounds)
    again = match(before.W_dec, after.W_dec)
    assert np.abs(again.cosine) == pytest.approx(1)
    for number, order in enumerate(orders):
        theirs = after.members[again.right, number]
        assert np.where(theirs < 0, -1, order[theirs]).tolist() == before.members[again.left, number].tolist()
    assert after.spread[again.right] == pytest.approx(before.spread[again.left])


def test_a_common_rotation_turns_the_consensus():
    _, runs = truth_and_runs(4, noise=0.2)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((32, 32)))
    turned = named(*(run.W_dec @ rotation for run in runs))
    before, after = consensus(runs, matched(runs)), consensus(turned, matched(turned))
    assert after.members.tolist() == before.members.tolist()
    assert after.W_dec == pytest.approx(before.W_dec @ rotation)


def test_the_same_runs_give_the_same_bits():
    _, runs = truth_and_runs(5)
    first, again = (consensus(runs, matched(runs)) for _ in range(2))
    assert first.W_dec.tobytes() == again.W_dec.tobytes()
    assert first.members.tobytes() == again.members.tobytes()


def test_unequal_widths_and_rows_of_zeros_take_part():
    W = unit(np.random.default_rng(0).standard_normal((12, 16)))
    dictionaries = [np.concatenate([np.zeros((2, 16)), W]), W[:9], np.concatenate([W[3:], np.zeros((1, 16))])]
    runs = named(*dictionaries)
    found = consensus(runs, matched(runs))
    assert match(found.W_dec, W).cosine == pytest.approx(np.ones(12))
    rows = dict(zip(match(W, found.W_dec).right.tolist(), range(12), strict=True))
    for feature, members in enumerate(found.members.tolist()):
        i = rows[feature]
        assert members == [i + 2, i if i < 9 else -1, i - 3 if i >= 3 else -1]


def test_with_signed_matchings_an_opposite_row_is_no_member():
    shared, spare = np.eye(12)[:6], np.eye(12)[6:]
    flip = np.array([[[1]] * 6, [[1]] * 5 + [[-1]], [[1]] * 4 + [[-1]] * 2])
    runs = named(*(np.concatenate([shared * flip[r], spare[2 * r : 2 * r + 2]]) for r in range(3)))
    absolute, signed = consensus(runs, matched(runs)), consensus(runs, matched(runs, signed=True))
    assert (absolute.n_opposed, signed.n_opposed) == (2, 0)
    assert sorted(absolute.support.tolist()) == [3, 3, 3, 3, 3, 3]
    assert sorted(signed.support.tolist()) == [2, 2, 3, 3, 3, 3]
    # Two of the three runs point the other way in the last feature.
    for found in (absolute, signed):
        assert found.W_dec.sum(axis=0) == pytest.approx(np.array([1, 1, 1, 1, 1, -1, 0, 0, 0, 0, 0, 0]))


# --- numbers and tables -----------------------------------------------------------------------------------------


def test_the_summary_and_the_table_say_what_the_consensus_says():
    _, runs = truth_and_runs(5)
    matchings = matched(runs)
    found, groups = consensus(runs, matchings), disjoint_groups(runs, matchings, n_splits=2)
    summary, table = consensus_summary(found, groups), consensus_table(found)
    assert (summary.n_features, summary.medoid) == (found.n_features, f"seed {found.medoid}")
    assert summary.mean_support == pytest.approx(found.support.mean())
    assert summary.mean_spread == pytest.approx(found.spread.mean())
    assert summary.n_full_support == (found.support == 5).sum()
    assert (summary.disjoint_groups, summary.disjoint_groups_reason) == (groups, None)
    assert (summary.tau, summary.min_support, summary.has_encoder) == (0.7, 3, False)
    assert table.column_names[:3] == ["feature", "spread", "support"]
    assert table["support"].to_pylist() == found.support.tolist()
    for number in range(5):
        expected = [None if row < 0 else row for row in found.members[:, number].tolist()]
        assert table[f"member_seed {number}"].to_pylist() == expected
        assert [c is None for c in table[f"cosine_seed {number}"].to_pylist()] == [row is None for row in expected]


def test_progress_is_told_before_every_matching():
    _, runs = truth_and_runs(3)
    seen = []
    found = consensus(runs, matched(runs), progress=lambda done, total, text: seen.append((done, total, text)))
    assert seen[0] == (0, 3, "consensus, round 2: matching seed 0")
    assert len(seen) == 3 * (found.n_rounds - 1)


# --- refusals ---------------------------------------------------------------------------------------------------


def test_settings_that_make_no_sense_are_refused():
    _, runs = truth_and_runs(3)
    matchings = matched(runs)
    with pytest.raises(ValueError, match="agreement is between runs: at least two are needed, got 1"):
        consensus(runs[:1], {})
    with pytest.raises(ValueError, match=r"above 0 and at most 1: got 1\.5"):
        consensus(runs, matchings, tau=1.5)
    with pytest.raises(ValueError, match="min_support must be at least 2 and at most the 3 runs: got 4"):
        consensus(runs, matchings, min_support=4)
    with pytest.raises(ValueError, match="min_support must be at least 2 and at most the 3 runs: got 1"):
        consensus(runs, matchings, min_support=1)
    with pytest.raises(ValueError, match="at least one round: got max_rounds=0"):
        consensus(runs, matchings, max_rounds=0)
    assert not consensus(runs, matchings, max_rounds=1).converged
