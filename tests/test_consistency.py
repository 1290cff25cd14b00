"""PW-MCC of several runs: its value, its companions, its tables, and what is refused."""

import json
from itertools import combinations, permutations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from sae_core.config import ConsistencyConfig
from sae_core.consistency import (
    Run,
    chance_corrected,
    consistency,
    jackknife,
    null_mcc,
    pw_mcc,
    write_consistency,
)
from sae_core.matching import match


def unit(W: np.ndarray) -> np.ndarray:
    return W / np.linalg.norm(W, axis=1, keepdims=True)


def brute_force(a: np.ndarray, b: np.ndarray, signed: bool = False) -> float:
    """MCC by trying every matching of the rows of a, the smaller dictionary."""
    score = unit(a) @ unit(b).T if signed else np.abs(unit(a) @ unit(b).T)
    return max(score[np.arange(len(a)), list(order)].mean() for order in permutations(range(len(b)), len(a)))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def runs(rng):
    """Three runs of 40 features in 12 dimensions that share the first 25, permuted, scaled and flipped."""
    shared = rng.standard_normal((25, 12))
    made = []
    for seed in range(3):
        W = np.concatenate([shared, rng.standard_normal((15, 12))])
        frequency = np.where(np.arange(40) % 8 == 7, 0.0, 10.0 ** rng.uniform(-4, -1, 40))
        order = rng.permutation(40)
        scale = rng.uniform(0.5, 2, (40, 1)) * rng.choice([-1, 1], (40, 1))
        made.append(Run(f"seed {seed}", (W * scale)[order], frequency[order]))
    return made


@pytest.fixture
def config():
    return ConsistencyConfig(n_null_draws=2)


def test_the_hand_example(config):
    a, b = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.1, 1.0], [1.0, 0.2]])
    assert pw_mcc([a, b]) == pytest.approx(0.98781, abs=5e-6)
    index_by_index = np.abs(np.einsum("ij,ij->i", unit(a), unit(b))).mean()
    assert index_by_index == pytest.approx(0.14781, abs=5e-6)
    report = consistency([Run("a", a), Run("b", b)], config)
    assert report.summary.pw_mcc == pytest.approx(0.98781, abs=5e-6)
    assert report.matches["feature_b"].to_pylist() == [1, 0]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_pw_mcc_is_the_mean_over_pairs_of_the_best_of_all_permutations(rng, signed, n):
    dictionaries = [rng.standard_normal((n, 3)) for _ in range(3)]
    by_hand = np.mean([brute_force(a, b, signed) for a, b in combinations(dictionaries, 2)])
    assert pw_mcc(dictionaries, signed) == pytest.approx(by_hand)


def test_runs_of_different_width_in_features_are_matched_over_the_smaller(rng):
    a, b = rng.standard_normal((3, 4)), rng.standard_normal((6, 4))
    assert pw_mcc([a, b]) == pytest.approx(brute_force(a, b)) == pytest.approx(pw_mcc([b, a]))


def test_permuting_flipping_scaling_and_rotating_features_changes_nothing(rng):
    W, order, sign = rng.standard_normal((32, 8)), rng.permutation(32), rng.choice([-1.0, 1.0], (32, 1))
    assert pw_mcc([W, (3 * sign * W)[order]]) == pytest.approx(1)
    other, (rotation, _) = rng.standard_normal((32, 8)), np.linalg.qr(rng.standard_normal((8, 8)))
    assert pw_mcc([W @ rotation, other @ rotation]) == pytest.approx(pw_mcc([W, other]))


def test_flipped_features_count_as_shared_only_without_signs(runs, config):
    summary = consistency(runs, config).summary
    assert summary.pw_mcc_signed < summary.pw_mcc
    signed = [match(a.W_dec, b.W_dec, signed=True).mcc for a, b in combinations(runs, 2)]
    assert summary.pw_mcc_signed == pytest.approx(np.mean(signed))
    cosines = np.concatenate([match(a.W_dec, b.W_dec).cosine for a, b in combinations(runs, 2)])
    assert summary.share_negative == pytest.approx((cosines < 0).mean())
    assert 0.2 < summary.share_negative < 0.8


def test_the_summary_agrees_with_its_parts(runs, config):
    summary = consistency(runs, config).summary
    mccs = np.full((3, 3), np.nan)
    for i, j in combinations(range(3), 2):
        mccs[i, j] = mccs[j, i] = match(runs[i].W_dec, runs[j].W_dec).mcc
    interval = jackknife(mccs)
    assert summary.pw_mcc == pytest.approx(np.nanmean(mccs)) == pytest.approx(summary.upper_bound)
    assert (summary.ci_low, summary.ci_high) == pytest.approx((interval.low, interval.high))
    assert summary.standard_error == pytest.approx(interval.standard_error)
    assert summary.ci_reason is None
    assert summary.null_isotropic == pytest.approx(null_mcc(40, 12))
    assert summary.kappa_isotropic == pytest.approx(chance_corrected(summary.pw_mcc, summary.null_isotropic))
    assert summary.kappa_sign_flip == pytest.approx(chance_corrected(summary.pw_mcc, summary.null_sign_flip))
    assert summary.certified
    assert (summary.n_runs, summary.n_pairs, summary.d_sae, summary.d_in) == (3, 3, 40, 12)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_a_mixture_of_shared_and_random_features_scores_their_weighted_mean(rng, share):
    # PW = p + (1 - p) MCC0((1 - p) n, d), with a share p of identical features.
    n = 1200
    n_shared = int(share * n)
    shared = rng.standard_normal((n_shared, 64))
    runs = [Run(str(seed), np.concatenate([shared, rng.standard_normal((n - n_shared, 64))])) for seed in range(2)]
    summary = consistency(runs, ConsistencyConfig(n_null_draws=0, consensus=False, core=False)).summary
    assert summary.pw_mcc == pytest.approx(share + (1 - share) * null_mcc(n - n_shared, 64), abs=0.003)
    assert summary.shared_fraction["0.9"] == pytest.approx(share)
    assert summary.histogram.counts[-1] == n_shared


def test_unrelated_runs_are_at_chance(rng, config):
    summary = consistency([Run(str(seed), rng.standard_normal((300, 32))) for seed in range(3)], config).summary
    assert summary.kappa_isotropic == pytest.approx(0, abs=0.02)
    assert summary.kappa_sign_flip == pytest.approx(0, abs=0.02)


def test_identical_runs_score_one_everywhere(rng, config):
    W = rng.standard_normal((30, 16))
    summary = consistency([Run(str(seed), W, np.full(30, 0.1)) for seed in range(3)], config).summary
    for value in (summary.pw_mcc, summary.pw_mcc_signed, summary.pw_mcc_alive, summary.kappa_sign_flip):
        assert value == pytest.approx(1)
    assert summary.ci_low == summary.ci_high == pytest.approx(1)
    assert (summary.mmcs_forward, summary.mmcs_backward) == pytest.approx((1, 1))
    assert set(summary.shared_fraction.values()) == {1.0}


def test_two_runs_have_no_interval_and_the_summary_says_why(runs, config):
    summary = consistency(runs[:2], config).summary
    assert summary.ci_low is summary.ci_high is summary.standard_error is None
    assert "at least three runs" in summary.ci_reason


def test_dead_features_are_left_out_of_the_alive_value(runs, config):
    summary = consistency(runs, config).summary
    alive = [run.W_dec[run.frequency > 0] for run in runs]
    assert summary.n_alive == [35, 35, 35]
    assert summary.pw_mcc_alive == pytest.approx(pw_mcc(alive))
    assert summary.alive_reason is None


def test_without_frequencies_there_is_no_alive_value_and_the_summary_says_why(runs, config):
    bare = [runs[0], Run("seed 1", runs[1].W_dec), runs[2]]
    report = consistency(bare, config)
    assert report.summary.pw_mcc_alive is report.summary.n_alive is report.summary.frequency_bins is None
    assert report.summary.alive_reason == "no frequencies for seed 1"
    assert report.matches["alive_b"].null_count == 40  # seed 1 is b once, and a once
    assert report.matches["alive_a"].null_count == 40


def test_a_run_without_alive_features_has_no_alive_value_and_the_summary_says_why(runs, config):
    dead = Run("dead", runs[2].W_dec, np.zeros(40))
    summary = consistency([runs[0], runs[1], dead], config).summary
    assert summary.pw_mcc_alive is None
    assert summary.alive_reason == "no alive feature with a direction in dead"
    assert summary.n_alive == [35, 35, 0]


def test_rows_of_zeros_are_left_out_and_counted(runs, config):
    with_zeros = np.concatenate([runs[0].W_dec, np.zeros((4, 12))])
    report = consistency([Run("zeros", with_zeros), Run("b", runs[1].W_dec)], config)
    assert report.summary.n_zero_rows == [4, 0]
    assert report.summary.pw_mcc == pytest.approx(pw_mcc([runs[0].W_dec, runs[1].W_dec]))
    assert report.features["consistency"].null_count == 4
    assert report.features["n_matched"].to_pylist()[-44:-40] == [0, 0, 0, 0]


def test_mmcs_is_the_mean_largest_cosine_and_never_below_mcc(runs, config):
    report = consistency(runs, config)
    pairs = list(combinations(runs, 2))
    cosines = [np.abs(unit(a.W_dec) @ unit(b.W_dec).T) for a, b in pairs]
    assert report.summary.mmcs_forward == pytest.approx(np.mean([c.max(axis=1).mean() for c in cosines]))
    assert report.summary.mmcs_backward == pytest.approx(np.mean([c.max(axis=0).mean() for c in cosines]))
    for row in report.pairs.to_pylist():
        assert row["mcc"] <= min(row["mmcs_forward"], row["mmcs_backward"]) + 1e-12


def test_histogram_and_null_count_the_same_number_of_pairs(runs, config):
    report = consistency(runs, config)
    histogram = report.summary.histogram
    assert sum(histogram.counts) == pytest.approx(sum(histogram.null_counts)) == 3 * 40
    counts, _ = np.histogram(np.abs(report.matches["cosine"].to_numpy()), histogram.edges)
    assert histogram.counts == counts.tolist()


def test_shared_fractions_count_matched_pairs_at_each_threshold(runs):
    report = consistency(runs, ConsistencyConfig(thresholds=[0.3, 0.95], n_null_draws=1))
    cosine = np.abs(report.matches["cosine"].to_numpy())
    assert report.summary.shared_fraction == pytest.approx(
        {"0.3": (cosine >= 0.3).mean(), "0.95": (cosine >= 0.95).mean()}
    )
    assert report.summary.shared_fraction["0.95"] >= 0.5


def test_contributions_of_the_frequency_bins_add_up_to_pw_mcc(runs, config):
    report = consistency(runs, config)
    bins = report.summary.frequency_bins
    assert len(bins) == 1 + 5  # the pairs with a feature that never fired, and five bins
    assert sum(b.contribution for b in bins) == pytest.approx(report.summary.pw_mcc, abs=1e-12)
    assert sum(b.n_matches for b in bins) == 3 * 40
    table = report.matches.to_pydict()
    frequency = np.minimum(table["frequency_a"], table["frequency_b"])
    cosine = np.abs(table["cosine"])
    assert bins[0].n_matches == (frequency == 0).sum()
    for b in bins[1:-1]:
        inside = (frequency >= b.low) & (frequency < b.high) & (frequency > 0)
        assert b.n_matches == inside.sum()
        if inside.sum() > 1:
            assert b.mean_cosine == pytest.approx(cosine[inside].mean())
            assert b.sd_cosine == pytest.approx(cosine[inside].std(ddof=1))
    ratios = [b.high / b.low for b in bins[1:]]
    assert ratios == pytest.approx([ratios[0]] * 5)


def test_contributions_add_up_when_pairs_have_different_sizes(rng, config):
    sizes = [20, 30, 25]
    runs = [Run(str(n), rng.standard_normal((n, 6)), rng.uniform(0.01, 0.5, n)) for n in sizes]
    summary = consistency(runs, config).summary
    assert sum(b.contribution for b in summary.frequency_bins) == pytest.approx(summary.pw_mcc, abs=1e-12)
    assert summary.d_sae == 20
    assert summary.n_features == sizes


def test_matches_are_one_to_one_and_carry_signed_cosines_and_frequencies(runs, config):
    table = consistency(runs, config).matches.to_pylist()
    by_name = {run.name: run for run in runs}
    for row in table:
        a, b = by_name[row["run_a"]], by_name[row["run_b"]]
        i, j = row["feature_a"], row["feature_b"]
        assert row["cosine"] == pytest.approx(float(unit(a.W_dec)[i] @ unit(b.W_dec)[j]))
        assert (row["frequency_a"], row["frequency_b"]) == (a.frequency[i], b.frequency[j])
        assert (row["alive_a"], row["alive_b"]) == (a.frequency[i] > 0, b.frequency[j] > 0)
    for a, b in combinations(by_name, 2):
        of_pair = [row for row in table if (row["run_a"], row["run_b"]) == (a, b)]
        assert len({row["feature_a"] for row in of_pair}) == len({row["feature_b"] for row in of_pair}) == 40


def test_consistency_of_a_feature_is_the_mean_over_its_partners_in_other_runs(runs, config):
    report = consistency(runs, config)
    matches, features = report.matches.to_pylist(), report.features.to_pylist()
    assert [row["feature"] for row in features] == list(range(40)) * 3
    for row in features:
        mine = [m for m in matches if row["feature"] == m["feature_a"] and row["run"] == m["run_a"]]
        mine += [m for m in matches if row["feature"] == m["feature_b"] and row["run"] == m["run_b"]]
        assert row["n_matched"] == len(mine) == 2
        assert row["consistency"] == pytest.approx(np.mean([abs(m["cosine"]) for m in mine]))
    consistencies = [row["consistency"] for row in features]
    assert np.mean(consistencies) == pytest.approx(report.summary.pw_mcc)


def test_best_margin_and_reappearance_of_a_feature_by_hand(runs, config):
    row = consistency(runs, config).features.to_pylist()[40 + 3]  # feature 3 of seed 1
    cosines = [np.abs(unit(runs[1].W_dec)[3] @ unit(runs[other].W_dec).T) for other in (0, 2)]
    assert row["run"] == "seed 1"
    assert row["best"] == pytest.approx(np.mean([c.max() for c in cosines]))
    for tau in (0.5, 0.7, 0.9):
        assert row[f"reappearance_{tau}"] == pytest.approx(np.mean([c.max() >= tau for c in cosines]))
    margins = []
    for other, c in zip((0, 2), cosines, strict=True):
        found = match(runs[1].W_dec, runs[other].W_dec)
        partner = found.right[list(found.left).index(3)]
        margins.append(c[partner] - np.delete(c, partner).max())
    assert row["margin"] == pytest.approx(np.mean(margins))


def test_features_of_a_larger_run_that_have_no_partner_are_missing(rng, config):
    report = consistency([Run("a", rng.standard_normal((5, 4))), Run("b", rng.standard_normal((8, 4)))], config)
    assert report.features["consistency"].null_count == 3
    assert report.features["best"].null_count == 0


def test_the_same_seed_gives_the_same_report_and_another_another_null(runs, config):
    first, second = consistency(runs, config), consistency(runs, config)
    assert first.summary == second.summary
    assert first.matches.equals(second.matches)
    other = consistency(runs, config.model_copy(update={"seed": 1}))
    assert other.summary.pw_mcc == first.summary.pw_mcc
    assert other.summary.null_sign_flip != first.summary.null_sign_flip


def test_global_random_state_is_untouched(runs, config):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    consistency(runs, config)
    assert (torch.random.get_rng_state() == before).all()


def test_what_is_written_is_what_was_found(runs, config, tmp_path):
    report = consistency(runs, config)
    returned = write_consistency(tmp_path, report)
    written = (path for path in tmp_path.rglob("*") if path.is_file())
    assert sorted(path.relative_to(tmp_path).as_posix() for path in written) == [
        "consensus/consensus.parquet",
        "core_curve.parquet",
        "features.parquet",
        "matches.parquet",
        "pairs.parquet",
        "summary.json",
    ]
    assert json.loads((tmp_path / "summary.json").read_text()) == returned
    assert type(report.summary).model_validate(returned) == report.summary
    for name in ("pairs", "matches", "features", "core_curve"):
        assert pq.read_table(tmp_path / f"{name}.parquet").equals(getattr(report, name))


def test_progress_counts_every_matching(runs, config):
    calls = []
    consistency(runs, config, progress=lambda done, total, text: calls.append((done, total, text)))
    # Of each pair: all, signed, alive, merged, two draws of two nulls; three runs; start, core, consensus, groups.
    n = 3 * (4 + 2 * 2) + 3 + 4
    assert sorted({done for done, _, _ in calls}) == list(range(n + 1))
    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)
    assert {total for _, total, _ in calls} == {n}
    assert any("seed 0 and seed 1" in text for _, _, text in calls)


@pytest.mark.parametrize("compare", [pw_mcc, lambda ws: consistency([Run(str(i), W) for i, W in enumerate(ws)])])
def test_fewer_than_two_runs_are_refused(compare):
    with pytest.raises(ValueError, match="at least two are needed, got 1"):
        compare([np.eye(3)])


def test_different_widths_are_refused():
    with pytest.raises(ValueError, match="same d_in: seed 0 has 3, seed 1 has 4"):
        consistency([Run("seed 0", np.eye(3)), Run("seed 1", np.eye(4))])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_refused_by_run_and_row(bad):
    W = np.eye(5)
    W[3, 1] = bad
    with pytest.raises(ValueError, match="seed 7: row 3 is not finite"):
        consistency([Run("seed 0", np.eye(5)), Run("seed 7", W)])
    with pytest.raises(ValueError, match="run 1: row 3 is not finite"):
        pw_mcc([np.eye(5), W])


def test_a_name_given_twice_is_refused():
    with pytest.raises(ValueError, match="names must differ: seed 0 given more than once"):
        consistency([Run("seed 0", np.eye(2)), Run("seed 0", np.eye(2))])
