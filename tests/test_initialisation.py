"""Runs that started from the same weights are flagged, independent ones are not."""

from itertools import combinations

import numpy as np
import pytest

from sae_core.consistency.initialisation import check_initialisation
from sae_core.consistency.nulls import null_mcc
from sae_core.consistency.runs import Run
from sae_core.matching import match


def trained(initial: np.ndarray, rng: np.random.Generator, found: float, truth: np.ndarray) -> np.ndarray:
    """A decoder of which a share has become true features, each at a place of its own; the rest moved a little."""
    W = initial + 0.5 * rng.standard_normal(initial.shape)
    places = rng.permutation(len(W))[: int(found * len(W))]
    W[places] = truth[rng.permutation(len(truth))[: len(places)]]
    return W


def check(runs: list[Run], **settings):
    pairs = combinations(range(len(runs)), 2)
    return check_initialisation(runs, {(a, b): match(runs[a].W_dec, runs[b].W_dec) for a, b in pairs}, **settings)


def make_runs(shared: bool, with_initial: bool, n: int = 300, d: int = 32, n_runs: int = 3) -> list[Run]:
    rng = np.random.default_rng(0)
    truth, common = rng.standard_normal((n, d)), rng.standard_normal((n, d))
    runs = []
    for number in range(n_runs):
        initial = common if shared else rng.standard_normal((n, d))
        W = trained(initial, rng, 0.5, truth)
        runs.append(Run(f"seed {number}", W, initial=initial if with_initial else None))
    return runs


def test_independent_runs_are_at_chance_at_step_0_and_not_flagged():
    found = check(make_runs(shared=False, with_initial=True))
    assert not found.shared
    assert found.untrained == pytest.approx(null_mcc(300, 32), abs=0.01)
    assert "at step 0 all pairs of runs are at chance" in found.reason
    assert found.untrained_reason is None
    assert found.stopped == []


def test_a_shared_initialisation_is_flagged_at_step_0_and_the_runs_are_named():
    found = check(make_runs(shared=True, with_initial=True))
    assert found.shared
    assert found.untrained == pytest.approx(1)
    assert "at step 0 above chance: seed 0 and seed 1 have 1, chance gives 0.4" in found.reason


def test_one_pair_that_shares_its_start_is_enough():
    runs = make_runs(shared=False, with_initial=True)
    runs[2] = Run("copy", runs[2].W_dec, initial=runs[0].initial[::-1].copy())
    found = check(runs)
    assert found.shared
    assert "seed 0 and copy" in found.reason
    assert "seed 1" not in found.reason.split(";")[0]


def test_a_start_that_is_shared_in_part_is_flagged():
    rng = np.random.default_rng(1)
    common = rng.standard_normal((300, 32))
    runs = [
        Run(str(k), rng.standard_normal((300, 32)), initial=common + 0.7 * rng.standard_normal((300, 32)))
        for k in range(2)
    ]
    assert check(runs).shared


def test_without_step_0_many_features_matched_to_their_own_number_are_the_sign():
    found = check(make_runs(shared=True, with_initial=False))
    assert found.shared
    assert found.untrained is None
    assert found.untrained_reason == "no decoder at step 0 for seed 0, seed 1, seed 2"
    assert found.n_same_index > 50
    assert found.n_same_index_expected == pytest.approx(3)
    assert found.same_index_p < 1e-20
    assert f"{found.n_same_index} matched features have the same number" in found.reason


def test_without_step_0_independent_runs_are_not_flagged_even_if_they_agree_perfectly():
    assert not check(make_runs(shared=False, with_initial=False)).shared
    rng = np.random.default_rng(0)
    W = rng.standard_normal((400, 16))
    assert not check([Run(str(k), W[rng.permutation(400)]) for k in range(4)]).shared


def test_independent_runs_have_a_poisson_number_of_features_matched_to_their_own_number():
    rng = np.random.default_rng(0)
    found = [
        check([Run("a", rng.standard_normal((12, 4))), Run("b", rng.standard_normal((30, 4)))]) for _ in range(600)
    ]
    assert {one.n_same_index_expected for one in found} == {12 / 30}
    assert np.mean([one.n_same_index for one in found]) == pytest.approx(12 / 30, abs=4 * np.sqrt(0.4 / 600))
    none = [one for one in found if one.n_same_index == 0]
    assert {one.same_index_p for one in none} == {1.0}
    assert len(none) / 600 == pytest.approx(np.exp(-0.4), abs=0.08)
    some = next(one for one in found if one.n_same_index == 1)
    assert some.same_index_p == pytest.approx(1 - np.exp(-0.4))


def test_a_step_0_that_is_not_finite_is_refused_by_run():
    runs = make_runs(shared=False, with_initial=True, n=20, d=4)
    runs[1].initial[3, 0] = np.inf
    with pytest.raises(ValueError, match="seed 1 at step 0: row 3 is not finite"):
        check(runs)
