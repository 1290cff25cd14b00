"""What stands for several runs best, and what fewer of them would have said."""

from itertools import combinations

import numpy as np
import pytest

from sae_core.consistency import Run, consensus, jackknife
from sae_core.consistency.mutual_neighbours import of_subset
from sae_core.matching import match
from sae_core.synthetic.run_summaries import pair_values, what_recovers
from sae_core.synthetic.seed_counts import over_seed_counts
from tests.planted_runs import matched, named, truth_and_runs


def of_truth(runs, truth):
    return [match(run.W_dec, truth) for run in runs]


def summaries_of(runs, truth, tau=0.9):
    matchings = matched(runs)
    return what_recovers(runs, matchings, truth, of_truth(runs, truth), consensus(runs, matchings), tau)


def runs_that_miss_one_each():
    """Six true features in twelve dimensions; run r lacks feature r and has a direction of its own in its place."""
    axes = np.eye(12)
    return axes[:6], named(*(np.delete(axes[: 7 + r], [r, *range(6, 6 + r)], axis=0) for r in range(3)))


# --- summaries --------------------------------------------------------------------------------------------------


def test_the_consensus_has_what_every_run_misses():
    truth, runs = runs_that_miss_one_each()
    found = summaries_of(runs, truth)
    assert found.mean_run == found.best_run == found.medoid == pytest.approx(5 / 6)
    assert found.mean_run_precision == pytest.approx(5 / 6)
    assert found.mean_run_gt_mcc == found.best_run_gt_mcc == found.medoid_gt_mcc == pytest.approx(5 / 6)
    assert (found.consensus, found.consensus_precision, found.consensus_features) == (1, 1, 6)
    assert found.consensus_gt_mcc == pytest.approx(1)
    assert found.tau == 0.9


def test_the_consensus_of_noisy_runs_recovers_more_than_the_best_of_them():
    truth, runs = truth_and_runs(8, noise=0.5)
    found = summaries_of(runs, truth)
    assert found.consensus > found.best_run + 0.2
    assert found.consensus_precision > found.mean_run_precision


def test_summaries_are_those_of_the_runs_they_name():
    truth, runs = truth_and_runs(5, noise=0.45)
    found, alone, tau = summaries_of(runs, truth, 0.85), of_truth(runs, truth), 0.85
    share = [(one.score >= tau).sum() / len(truth) for one in alone]
    mccs, matchings = [one.mcc for one in alone], matched(runs)
    medoid = consensus(runs, matchings).medoid
    assert (found.mean_run, found.medoid) == pytest.approx((np.mean(share), share[medoid]))
    assert (found.best_run, found.best_run_gt_mcc) == pytest.approx((share[np.argmax(mccs)], max(mccs)))
    assert (found.mean_run_gt_mcc, found.medoid_gt_mcc) == pytest.approx((np.mean(mccs), mccs[medoid]))
    together = match(consensus(runs, matchings).W_dec, truth)
    assert found.consensus == pytest.approx((together.score >= tau).sum() / len(truth))
    assert found.consensus_gt_mcc == pytest.approx(together.mcc)


def test_the_share_is_of_all_true_features_and_precision_of_the_features_there_are():
    truth = np.eye(10)
    small = summaries_of(named(truth[:4], truth[:4]), truth)
    assert (small.mean_run, small.consensus) == pytest.approx((0.4, 0.4))
    assert (small.mean_run_precision, small.consensus_precision) == (1, 1)
    large = summaries_of(named(truth, truth), truth[:4])
    assert (large.mean_run, large.consensus) == (1, 1)
    assert (large.mean_run_precision, large.consensus_precision) == pytest.approx((0.4, 0.4))


def test_runs_that_share_nothing_have_no_consensus():
    axes = np.eye(6)
    found = summaries_of(named(axes[:3], axes[3:]), axes[:3])
    assert (found.consensus, found.consensus_features) == (0, 0)
    assert (found.consensus_gt_mcc, found.consensus_precision) == (None, None)
    assert found.mean_run == pytest.approx(0.5)


def test_what_does_not_belong_together_is_refused():
    truth, runs = runs_that_miss_one_each()
    matchings, alone = matched(runs), of_truth(runs, truth)
    common = consensus(runs, matchings)
    with pytest.raises(ValueError, match="got None: only synthetic data have a ground truth"):
        what_recovers(runs, matchings, None, alone, common)
    with pytest.raises(ValueError, match="must have the same d_in: got 12 and 6"):
        what_recovers(runs, matchings, truth[:, :6], alone, common)
    with pytest.raises(ValueError, match="expected a matching of each of the 3 runs with the truth, got 2"):
        what_recovers(runs, matchings, truth, alone[:2], common)
    with pytest.raises(
        ValueError, match="features of seed 0 with 5 true ones, got one of 6 with 6; pass the matchings"
    ):
        what_recovers(runs, matchings, truth[:5], alone, common)
    others = [Run(f"other {number}", run.W_dec) for number, run in enumerate(runs)]
    with pytest.raises(ValueError, match="expected the consensus of other 0, .* got that of seed 0, seed 1, seed 2"):
        what_recovers(others, matchings, truth, alone, common)


# --- fewer seeds ------------------------------------------------------------------------------------------------


def test_all_sets_are_taken_where_they_are_few():
    truth, runs = truth_and_runs(5, n_true=20, n_junk=5, d=12)
    matchings, alone = matched(runs), of_truth(runs, truth)
    found = over_seed_counts(runs, matchings, truth, alone, [2, 3, 5], n_draws=10)
    assert [(one.n_runs, one.n_draws) for one in found] == [(2, 10), (3, 10), (5, 1)]
    for one in found:
        sets = list(combinations(range(5), one.n_runs))
        mccs = [np.mean([matchings[pair].mcc for pair in combinations(members, 2)]) for members in sets]
        assert one.pw_mcc == pytest.approx(np.mean(mccs))
        parts = [
            what_recovers([runs[i] for i in members], of_subset(matchings, members), truth, [alone[i] for i in members],
                          consensus([runs[i] for i in members], of_subset(matchings, members)))
            for members in sets
        ]  # fmt: skip
        for name in ("mean_run", "medoid", "consensus", "consensus_precision"):
            assert getattr(one, name) == pytest.approx(np.mean([getattr(part, name) for part in parts]))
        if one.n_draws > 1:
            assert one.pw_mcc_sd == pytest.approx(np.std(mccs, ddof=1))
            assert one.consensus_sd == pytest.approx(np.std([part.consensus for part in parts], ddof=1))


def test_all_runs_say_what_they_say_together_and_two_have_no_interval():
    truth, runs = truth_and_runs(4, n_true=20, n_junk=5, d=12)
    matchings, alone = matched(runs), of_truth(runs, truth)
    two, everyone = over_seed_counts(runs, matchings, truth, alone, [2, 4])
    interval = jackknife(pair_values(matchings, 4))
    assert two.ci_half_width is None
    assert everyone.ci_half_width == pytest.approx((interval.high - interval.low) / 2)
    assert (everyone.pw_mcc_sd, everyone.consensus_sd, everyone.n_draws) == (None, None, 1)
    whole = what_recovers(runs, matchings, truth, alone, consensus(runs, matchings))
    assert (everyone.consensus, everyone.medoid) == (whole.consensus, whole.medoid)


def test_sampled_sets_are_seeded_and_do_not_depend_on_the_other_numbers():
    truth, runs = truth_and_runs(8, n_true=12, n_junk=3, d=8)
    matchings, alone = matched(runs), of_truth(runs, truth)
    arguments = runs, matchings, truth, alone
    three, _ = over_seed_counts(*arguments, [3, 2], n_draws=4)
    assert [three] == over_seed_counts(*arguments, [3], n_draws=4)
    assert [three] != over_seed_counts(*arguments, [3], n_draws=4, seed=1)
    assert three.n_draws == 4


def test_more_seeds_recover_more_of_the_truth():
    truth, runs = truth_and_runs(8, noise=0.5)
    few, many = over_seed_counts(runs, matched(runs), truth, of_truth(runs, truth), [2, 8], n_draws=5)
    assert many.consensus > few.consensus
    assert many.mean_run == pytest.approx(few.mean_run, abs=0.1)


def test_draws_without_a_consensus_count_as_nothing_recovered():
    axes = np.eye(6)
    runs = named(axes[:3], axes[3:])
    (found,) = over_seed_counts(runs, matched(runs), axes, of_truth(runs, axes), [2])
    assert (found.consensus, found.consensus_precision, found.mean_run) == (0, None, 0.5)


def test_impossible_numbers_of_seeds_are_refused():
    truth, runs = runs_that_miss_one_each()
    arguments = runs, matched(runs), truth, of_truth(runs, truth)
    for count in (1, 4):
        with pytest.raises(ValueError, match=f"expected numbers of runs from 2 to the 3 there are: got {count}"):
            over_seed_counts(*arguments, [count])
    with pytest.raises(ValueError, match="needs at least one draw: got n_draws=0"):
        over_seed_counts(*arguments, [2], n_draws=0)
    with pytest.raises(ValueError, match="got None: only synthetic data have a ground truth"):
        over_seed_counts(runs, matched(runs), None, of_truth(runs, truth), [2])
