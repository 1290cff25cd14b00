"""The stable core: hand-made graphs, brute force, and what shrinks and what does not."""

from itertools import combinations, permutations

import numpy as np
import pytest
import torch

from sae_core.consistency.mutual_neighbours import mutual_pairs, mutual_pairs_of, of_subset
from sae_core.consistency.runs import Run
from sae_core.consistency.stable_cores import Kind, cycle_consistency, stable_core
from sae_core.matching import match
from sae_core.matching.score_sources import UnitRows
from tests.planted_runs import matched, named, planted


def angles(*degrees: float) -> np.ndarray:
    """Directions in the plane."""
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1)


def core_of(runs: list[Run], tau: float, signed: bool = False):
    return stable_core(runs, matched(runs, signed), tau)


def brute_force(runs: list[Run], tau: float) -> dict[frozenset[tuple[int, int]], bool]:
    """Components of mutual nearest neighbours, by loops; the value says whether all pairs in it are edges."""
    unit = [run.W_dec / np.linalg.norm(run.W_dec, axis=1, keepdims=True) for run in runs]
    nodes = [(r, i) for r, W in enumerate(unit) for i in range(len(W))]
    edges = set()
    for a, b in combinations(range(len(runs)), 2):
        cosine = np.abs(unit[a] @ unit[b].T)
        for i, j in np.ndindex(cosine.shape):
            if cosine[i].argmax() == j and cosine[:, j].argmax() == i and cosine[i, j] >= tau:
                edges.add(frozenset([(a, i), (b, j)]))
    component = {node: frozenset([node]) for node in nodes}
    for x, y in edges:
        joined = component[x] | component[y]
        component.update(dict.fromkeys(joined, joined))
    return {
        c: all(frozenset(pair) in edges for pair in combinations(c, 2))
        for c in sorted(set(component.values()), key=min)
    }


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tau", [0.2, 0.6, 0.85])
def test_components_are_those_of_brute_force(seed, tau):
    runs = planted(4, seed)
    found, expected = core_of(runs, tau), brute_force(runs, tau)
    distinct = {c: len({run for run, _ in c}) for c in expected}
    core = {c: complete for c, complete in expected.items() if len(c) == distinct[c] == 4}
    assert {frozenset(enumerate(row)) for row in found.members.tolist()} == set(core)
    assert found.n_complete == sum(core.values())
    assert found.n_split == sum(len(c) > distinct[c] for c in expected)
    assert found.n_single == sum(len(c) == 1 for c in expected)
    assert found.n_partial == sum(1 < len(c) == distinct[c] < 4 for c in expected)
    assert found.share == found.n_core / min(len(run.W_dec) for run in runs)
    for c in expected:
        assert len({int(found.components[run][row]) for run, row in c}) == 1


def test_a_component_with_two_features_of_a_run_is_split():
    # 0 and 8 choose each other, so do 8 and 16, and so do 16 and 20, which is in the run of 0.
    runs = named(angles(0, 20), angles(8), angles(16))
    found = core_of(runs, 0.9)
    assert (found.n_core, found.n_split, found.n_partial, found.n_single) == (0, 1, 0, 0)
    assert [kinds.tolist() for kinds in found.kinds] == [[Kind.SPLIT, Kind.SPLIT], [Kind.SPLIT], [Kind.SPLIT]]
    # cos 8 = 0.990, cos 4 = 0.998
    found = core_of(runs, 0.995)
    assert (found.n_core, found.n_split, found.n_partial, found.n_single) == (0, 0, 1, 2)
    assert [kinds.tolist() for kinds in found.kinds] == [[Kind.SINGLE, Kind.PARTIAL], [Kind.SINGLE], [Kind.PARTIAL]]


def test_a_feature_that_one_run_lacks_is_partial_and_one_that_nobody_else_has_is_single():
    found = core_of(named(angles(0, 60), angles(1, 61), angles(2, 120)), 0.99)
    assert found.members.tolist() == [[0, 0, 0]]
    assert found.complete.tolist() == [True]
    assert (found.n_split, found.n_partial, found.n_single) == (0, 1, 1)
    assert found.contains(2).tolist() == [True, False]
    assert found.share == 0.5


def test_a_weaker_edge_can_split_a_core_but_never_a_complete_one():
    # 0-5 and 5-10 make a core; 10 and 16 choose each other too, with a smaller cosine: cos 5 = .9962, cos 6 = .9945.
    runs = named(angles(0, 16), angles(5), angles(10))
    assert core_of(runs, 0.995).n_core == 1
    assert core_of(runs, 0.995).n_complete == 0
    assert (core_of(runs, 0.99).n_core, core_of(runs, 0.99).n_split) == (0, 1)


@pytest.mark.parametrize("seed", range(4))
def test_complete_cores_and_common_components_only_grow_when_the_threshold_falls(seed):
    runs = planted(4, seed)
    matchings = matched(runs)
    complete, common = set(), set()
    for tau in (0.95, 0.85, 0.7, 0.5, 0.2):
        found = stable_core(runs, matchings, tau)
        now = {tuple(row) for row in found.members[found.complete].tolist()}
        assert complete <= now
        complete = now
        spanning = {
            row
            for row, component in enumerate(found.components[0])
            if all((components == component).any() for components in found.components)
        }
        assert common <= spanning
        common = spanning
    assert complete


def test_a_complete_core_stays_one_when_a_run_is_left_out():
    runs = planted(5, seed=1, noise=0.2)
    matchings = matched(runs)
    everyone = stable_core(runs, matchings, 0.6)
    assert everyone.n_complete > 5
    for subset in combinations(range(5), 4):
        fewer = stable_core([runs[i] for i in subset], of_subset(matchings, subset), 0.6)
        complete = {tuple(row) for row in fewer.members[fewer.complete].tolist()}
        assert {tuple(row) for row in everyone.members[everyone.complete][:, subset].tolist()} <= complete


def test_the_same_dictionary_permuted_scaled_and_flipped_is_all_core():
    rng = np.random.default_rng(0)
    W, orders = rng.standard_normal((50, 12)), [rng.permutation(50) for _ in range(4)]
    runs = named(*((rng.uniform(0.1, 9, (50, 1)) * rng.choice([-1, 1], (50, 1)) * W)[order] for order in orders))
    found = core_of(runs, 0.999)
    assert found.n_core == found.n_complete == 50
    assert found.share == 1
    assert found.members.tolist() == [[order.tolist().index(i) for order in orders] for i in orders[0]]
    assert cycle_consistency(matched(runs), 4) == 1


def test_permuting_scaling_and_flipping_features_permutes_the_core():
    rng, runs = np.random.default_rng(5), planted(3, seed=2)
    orders = [rng.permutation(len(run.W_dec)) for run in runs]
    changed = named(*(rng.choice([-2.0, 3.0], (len(o), 1)) * run.W_dec[o] for run, o in zip(runs, orders, strict=True)))
    before, after = core_of(runs, 0.6), core_of(changed, 0.6)
    back = np.stack([order[rows] for order, rows in zip(orders, after.members.T, strict=True)], axis=1)
    assert sorted(map(tuple, back.tolist())) == sorted(map(tuple, before.members.tolist()))
    assert (before.n_split, before.n_partial, before.n_single) == (after.n_split, after.n_partial, after.n_single)


def test_with_signs_an_opposite_feature_is_another_one():
    runs = named(angles(0, 60), angles(180, 240))
    assert core_of(runs, 0.9).n_core == 2
    assert core_of(runs, 0.9, signed=True).n_core == 0


def test_rows_of_zeros_are_no_features_and_widths_may_differ():
    W = np.random.default_rng(0).standard_normal((6, 8))
    runs = named(np.concatenate([W[:2], np.zeros((1, 8)), W[2:]]), W[:5], np.concatenate([W, np.zeros((4, 8))]))
    found = core_of(runs, 0.9)
    assert found.members.tolist() == [[0, 0, 0], [1, 1, 1], [3, 2, 2], [4, 3, 3], [5, 4, 4]]
    assert (found.n_features, found.share, found.n_partial, found.n_single) == (5, 1.0, 1, 0)
    assert found.kinds[0][2] == Kind.NONE
    assert found.kinds[2].tolist() == [Kind.CORE] * 5 + [Kind.PARTIAL] + [Kind.NONE] * 4


@pytest.mark.parametrize("signed", [False, True])
def test_mutual_neighbours_from_a_product_are_those_of_the_matching(signed):
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal((n, 7)).astype(np.float32) for n in (60, 45))
    a, b = (W / np.linalg.norm(W, axis=1, keepdims=True) for W in (a, b))
    expected = mutual_pairs(match(a, b, signed))
    found = mutual_pairs_of(UnitRows(torch.from_numpy(a), torch.from_numpy(b), signed), 0.0)
    assert found.left.tolist() == expected.left.tolist()
    assert found.right.tolist() == expected.right.tolist()
    assert found.score == pytest.approx(expected.score, abs=1e-6)


def test_of_equal_rows_one_is_chosen():
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = mutual_pairs_of(UnitRows(a, torch.eye(2)), 0.0)
    assert (found.left.tolist(), found.right.tolist()) == ([0, 2], [0, 1])


# --- cycle consistency ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_cycle_consistency_is_what_counting_says(seed):
    runs = planted(4, seed, n=12, d=4, noise=1.0)
    matchings = matched(runs)
    partner = {}
    for (i, j), found in matchings.items():
        partner[i, j] = dict(zip(found.left.tolist(), found.right.tolist(), strict=True))
        partner[j, i] = {right: left for left, right in partner[i, j].items()}
    closed = []
    for i, j, k in permutations(range(4), 3):
        for x in range(len(runs[i].W_dec)):
            if x in partner[i, j] and x in partner[i, k] and partner[i, j][x] in partner[j, k]:
                closed.append(partner[j, k][partner[i, j][x]] == partner[i, k][x])
    assert 0 < np.mean(closed) < 1
    assert cycle_consistency(matchings, 4) == pytest.approx(np.mean(closed))


def test_two_runs_have_no_cycle():
    assert cycle_consistency(matched(planted(2, 0)), 2) is None


# --- refusals ---------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused():
    runs = planted(3, 0)
    matchings = matched(runs)
    with pytest.raises(ValueError, match="at least two are needed, got 1; train another seed"):
        stable_core(runs[:1], {}, 0.7)
    with pytest.raises(ValueError, match=r"no matching of seed 0 and seed 2: expected one for each of the 3 pairs"):
        stable_core(runs, {(0, 1): matchings[0, 1], (1, 2): matchings[1, 2]}, 0.7)
    with pytest.raises(
        ValueError, match="the matching of seed 2 and seed 1 is of 28 and 28 features, the runs have 30"
    ):
        stable_core(runs[::-1], matchings, 0.7)
    with pytest.raises(ValueError, match="some matchings are signed and some are not"):
        stable_core(runs, {**matchings, (0, 1): match(runs[0].W_dec, runs[1].W_dec, signed=True)}, 0.7)
    with pytest.raises(ValueError, match=r"above 0 and at most 1: got 0\.0"):
        stable_core(runs, matchings, 0.0)
