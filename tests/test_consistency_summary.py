"""What the consistency report says beyond PW-MCC: joint match, duplicates, core, start, and what was not measured."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from sae_core.config import ConsistencyConfig
from sae_core.consistency import (
    ConsistencySummary,
    CosineHistogram,
    FrequencyBin,
    Run,
    chance_corrected,
    consistency,
    pw_mcc,
)
from sae_core.consistency import pairs as consistency_pairs
from sae_core.matching import match

BEFORE = [
    "runs",
    "n_runs",
    "n_pairs",
    "d_in",
    "d_sae",
    "n_features",
    "n_zero_rows",
    "n_alive",
    "pw_mcc",
    "ci_low",
    "ci_high",
    "standard_error",
    "ci_reason",
    "pw_mcc_signed",
    "pw_mcc_alive",
    "alive_reason",
    "share_negative",
    "mmcs_forward",
    "mmcs_backward",
    "shared_fraction",
    "null_isotropic",
    "null_sign_flip",
    "null_mmcs_isotropic",
    "kappa_isotropic",
    "kappa_sign_flip",
    "certified",
    "upper_bound",
    "histogram",
    "frequency_bins",
]
"""Fields of the first published version."""
EVERYTHING = ConsistencyConfig(n_null_draws=1)
LEAST = ConsistencyConfig(n_null_draws=0, signed=False, joint=False, merged=False, core=False, consensus=False)


def unit(W: np.ndarray) -> np.ndarray:
    return W / np.linalg.norm(W, axis=1, keepdims=True)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def make_runs(rng: np.random.Generator, sizes=(30, 30, 30), n_shared=18, d=10, **fields) -> list[Run]:
    """Runs that share features at places of their own; encoders are noisy transposes."""
    shared, runs = rng.standard_normal((n_shared, d)), []
    for number, n in enumerate(sizes):
        W = np.concatenate([shared, rng.standard_normal((n - n_shared, d))])[rng.permutation(n)]
        given = {
            "frequency": 10 ** rng.uniform(-4, -1, n),
            "W_enc": W.T + 0.3 * rng.standard_normal((d, n)),
            "initial": rng.standard_normal((n, d)),
        }
        runs.append(Run(f"seed {number}", W, **(given | fields)))
    return runs


@pytest.fixture
def runs(rng):
    return make_runs(rng)


def test_fields_keep_their_names_and_all_are_described():
    assert set(BEFORE) <= set(ConsistencySummary.model_fields)
    for result in (ConsistencySummary, FrequencyBin, CosineHistogram):
        for name, field in result.model_fields.items():
            assert field.description, f"{result.__name__}.{name} has no docstring"


@pytest.mark.parametrize("config", [EVERYTHING, LEAST], ids=["everything", "least"])
@pytest.mark.parametrize("n_runs", [2, 3])
@pytest.mark.parametrize("known", ["all", "nothing"])
def test_every_missing_number_has_a_reason_and_no_other(rng, config, n_runs, known):
    fields = {} if known == "all" else {"frequency": None, "W_enc": None, "initial": None}
    summary = consistency(make_runs(rng, **fields)[:n_runs], config).summary
    missing = {name for name in ConsistencySummary.model_fields if getattr(summary, name) is None}
    assert missing - {"ci_reason", "alive_reason"} == set(summary.not_measured)
    assert all(summary.not_measured.values())


def test_everything_is_measured_when_everything_is_known(rng):
    summary = consistency(make_runs(rng, sizes=(30,) * 4), EVERYTHING).summary
    assert summary.not_measured == {}
    assert summary.certified
    assert summary.stopped == []
    assert summary.consensus.disjoint_groups is not None


def test_what_is_switched_off_says_so(runs):
    summary = consistency(runs, LEAST).summary
    assert summary.pw_mcc == pytest.approx(pw_mcc([run.W_dec for run in runs]))
    for name, switch in {
        "pw_mcc_signed": "signed: false",
        "pw_mcc_merged": "merged: false",
        "n_duplicates": "merged: false",
        "joint_mean": "joint: false",
        "null_sign_flip": "n_null_draws: 0",
        "kappa_sign_flip": "n_null_draws: 0",
        "null_second_moment": "n_null_draws: 0",
        "core": "core: false",
        "consensus": "consensus: false",
    }.items():
        assert getattr(summary, name) is None
        assert summary.not_measured[name] == f"switched off ({switch})"
    assert summary.histogram.null_counts is None
    assert summary.kappa_isotropic is not None
    report = consistency(runs, LEAST)
    assert report.core_curve is report.consensus is None
    for column in ("nearest_duplicate", "nearest_duplicate_feature", "core"):
        assert report.features[column].null_count == 90
    for column in ("mcc_signed", "mcc_merged", "joint_mean", "null_sign_flip", "null_second_moment", "stopped"):
        assert report.pairs[column].null_count == 3


def test_missing_encoders_and_starts_are_named(runs):
    bare = [runs[0], replace(runs[1], W_enc=None, initial=None), runs[2]]
    report = consistency(bare, EVERYTHING)
    assert report.summary.not_measured["joint_mean"] == "no encoder for seed 1"
    assert report.summary.not_measured["null_untrained"] == "no decoder at step 0 for seed 1"
    assert report.pairs["joint_mean"].null_count == 2  # the pair without seed 1 has one
    assert report.matches["encoder_cosine"].null_count == report.matches["joint_cosine"].null_count == 60


def test_the_joint_matching_is_the_best_for_the_mean_of_both_cosines(runs):
    summary = consistency(runs, EVERYTHING).summary
    means, scores, both = [], [], []
    for a, b in combinations(runs, 2):
        decoder, encoder = unit(a.W_dec) @ unit(b.W_dec).T, unit(a.W_enc.T) @ unit(b.W_enc.T).T
        mean = (decoder + encoder) / 2
        left, right = linear_sum_assignment(np.abs(mean), maximize=True)
        sign = np.sign(mean[left, right])
        scores.append(np.abs(mean[left, right]))
        both.append(np.minimum(sign * decoder[left, right], sign * encoder[left, right]))
        means.append(scores[-1].mean())
    assert summary.joint_mean == pytest.approx(np.mean(means))
    for tau in (0.5, 0.7, 0.9):
        assert summary.shared_fraction_joint[f"{tau}"] == pytest.approx((np.concatenate(scores) >= tau).mean())
        assert summary.shared_fraction_both[f"{tau}"] == pytest.approx((np.concatenate(both) >= tau).mean())
        assert summary.shared_fraction_both[f"{tau}"] <= summary.shared_fraction_joint[f"{tau}"]


def test_matches_carry_the_encoder_cosine_of_the_pairs_that_decoders_make(runs):
    by_name = {run.name: run for run in runs}
    for row in consistency(runs, LEAST).matches.to_pylist():
        x = by_name[row["run_a"]].W_enc[:, row["feature_a"]]
        y = by_name[row["run_b"]].W_enc[:, row["feature_b"]]
        assert row["encoder_cosine"] == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
        assert row["joint_cosine"] == pytest.approx((row["encoder_cosine"] + row["cosine"]) / 2)


def test_a_feature_with_an_encoder_of_zeros_has_no_encoder_cosine(runs):
    W_enc = runs[0].W_enc.copy()
    W_enc[:, 4] = 0
    report = consistency([replace(runs[0], W_enc=W_enc), runs[1]], EVERYTHING)
    row = next(row for row in report.matches.to_pylist() if row["feature_a"] == 4)
    assert row["encoder_cosine"] is row["joint_cosine"] is None
    assert report.matches["encoder_cosine"].null_count == 1
    assert report.summary.joint_mean is not None


def test_duplicates_are_counted_and_merged(rng):
    shared = rng.standard_normal((20, 40))
    copies = shared[:6] * -2 + 0.01 * rng.standard_normal((6, 40))
    a = Run("a", np.concatenate([shared, copies]))
    b = Run("b", np.concatenate([rng.standard_normal((6, 40)), shared[::-1]]))
    report = consistency([a, b], EVERYTHING)
    assert report.summary.n_duplicates == [12, 0]
    assert report.summary.uniqueness == pytest.approx([20 / 26, 1])
    assert report.summary.pw_mcc < 0.9
    assert report.summary.pw_mcc_merged == pytest.approx(1, abs=1e-3)
    rows = report.features.to_pylist()
    assert [row["nearest_duplicate_feature"] for row in rows[:6]] == list(range(20, 26))
    assert min(row["nearest_duplicate"] for row in rows[:6]) > 0.99
    assert max(row["nearest_duplicate"] for row in rows[26:]) < 0.9


def test_without_duplicates_the_merged_value_is_the_value(runs):
    summary = consistency(runs, EVERYTHING).summary
    assert summary.n_duplicates == [0, 0, 0]
    assert summary.pw_mcc_merged == summary.pw_mcc


def test_nearest_duplicate_is_the_largest_cosine_within_the_run(runs):
    rows = consistency(runs, EVERYTHING).features.to_pylist()[30:60]
    cosines = np.abs(unit(runs[1].W_dec) @ unit(runs[1].W_dec).T) - 2 * np.eye(30)
    assert [row["nearest_duplicate"] for row in rows] == pytest.approx(cosines.max(axis=1), abs=1e-6)
    assert [row["nearest_duplicate_feature"] for row in rows] == cosines.argmax(axis=1).tolist()


def test_the_core_is_what_all_runs_share(runs):
    report = consistency(runs, EVERYTHING)
    levels = {level.tau: level for level in report.summary.core.levels}
    assert sorted(levels) == [0.5, 0.7, 0.9]
    assert levels[0.9].n_core >= 18
    in_core = [row for row in report.features.to_pylist() if row["core"]]
    assert len(in_core) == 3 * levels[0.7].n_core
    assert np.mean([row["consistency"] for row in in_core]) > 0.9
    assert set(report.core_curve["n_seeds"].to_pylist()) == {2, 3}


def test_a_core_threshold_of_its_own_joins_the_thresholds(runs):
    report = consistency(runs, EVERYTHING.model_copy(update={"core_threshold": 0.8}))
    assert [level.tau for level in report.summary.core.levels] == [0.5, 0.7, 0.8, 0.9]
    assert report.features["core"].null_count == 0


def test_cycle_consistency_is_one_for_permuted_copies_and_unknown_for_two_runs(rng):
    W = rng.standard_normal((40, 8))
    copies = [Run(str(k), W[rng.permutation(40)]) for k in range(3)]
    assert consistency(copies, LEAST).summary.cycle_consistency == 1
    two = consistency(copies[:2], LEAST).summary
    assert two.cycle_consistency is None
    assert "no way round" in two.not_measured["cycle_consistency"]


def test_runs_from_one_start_are_flagged_and_independent_ones_are_not(rng, runs):
    found = consistency(runs, LEAST).summary
    assert not found.shared_initialisation
    assert found.null_untrained == pytest.approx(found.null_isotropic, abs=0.1)
    together = [replace(run, initial=runs[0].initial) for run in runs]
    found = consistency(together, LEAST).summary
    assert found.shared_initialisation
    assert found.null_untrained == pytest.approx(1)
    assert "at step 0 above chance" in found.shared_initialisation_reason
    aligned = [Run(str(k), runs[0].W_dec + 0.3 * rng.standard_normal((30, 10))) for k in range(2)]
    found = consistency(aligned, LEAST).summary
    assert found.shared_initialisation
    assert found.n_same_index > 20
    assert found.n_same_index_expected == 1
    assert found.same_index_p < 1e-6


def test_each_null_corrects_the_value(runs):
    summary = consistency(runs, EVERYTHING).summary
    for name in ("isotropic", "second_moment", "sign_flip"):
        null, kappa = getattr(summary, f"null_{name}"), getattr(summary, f"kappa_{name}")
        assert kappa == pytest.approx(chance_corrected(summary.pw_mcc, null))
    for name in ("null_second_moment", "null_sign_flip"):
        assert getattr(summary, f"{name}_upper_bound") == pytest.approx(getattr(summary, name))


def test_anisotropic_but_unrelated_runs_are_above_the_isotropic_null_and_at_the_others(rng):
    spread = np.geomspace(1, 0.01, 32)
    unrelated = [Run(str(k), rng.standard_normal((200, 32)) * spread) for k in range(3)]
    summary = consistency(unrelated, ConsistencyConfig(core=False, consensus=False)).summary
    assert summary.kappa_isotropic > 0.2
    # Rows of unit length are less anisotropic than they were before, so their second moment says a little too little.
    assert 0 < summary.kappa_second_moment < 0.12
    assert summary.kappa_sign_flip == pytest.approx(0, abs=0.06)


def test_runs_with_different_numbers_of_features_get_everything(rng):
    report = consistency(make_runs(rng, sizes=(20, 35, 28, 24)), EVERYTHING)
    summary = report.summary
    assert (summary.d_sae, summary.n_features) == (20, [20, 35, 28, 24])
    assert summary.not_measured == {}
    for bins in (summary.frequency_bins, summary.frequency_bins_equal):
        assert sum(b.contribution for b in bins) == pytest.approx(summary.pw_mcc, abs=1e-12)
    assert len(report.features) == 20 + 35 + 28 + 24
    expected = 20 / 35 + 20 / 28 + 20 / 24 + 28 / 35 + 24 / 35 + 24 / 28
    assert summary.n_same_index_expected == pytest.approx(expected)


def test_the_order_of_features_and_their_scale_and_a_common_rotation_change_nothing(rng, runs):
    before = consistency(runs, LEAST.model_copy(update={"merged": True, "joint": True, "signed": True})).summary
    rotation, _ = np.linalg.qr(rng.standard_normal((10, 10)))
    moved = []
    for run in runs:
        order, scale = rng.permutation(30), rng.uniform(0.2, 5, 30)
        moved.append(
            Run(
                run.name,
                (run.W_dec * scale[:, None])[order] @ rotation,
                run.frequency[order],
                rotation.T @ (run.W_enc * scale)[:, order],
            )
        )
    after = consistency(moved, LEAST.model_copy(update={"merged": True, "joint": True, "signed": True})).summary
    for name in ("pw_mcc", "pw_mcc_signed", "pw_mcc_alive", "pw_mcc_merged", "joint_mean", "cycle_consistency"):
        assert getattr(after, name) == pytest.approx(getattr(before, name))
    for name in ("shared_fraction", "shared_fraction_joint", "shared_fraction_both"):
        assert getattr(after, name) == pytest.approx(getattr(before, name))


def test_a_matching_that_stopped_early_gives_a_bracket_and_is_named(runs, monkeypatch):
    def stopped_match(*args, **kwargs):
        found = match(*args, **kwargs)
        early = kwargs["names"] == ("seed 0", "seed 2") and not kwargs.get("signed")
        return replace(found, gap=0.03, stopped="time budget of 1 s spent") if early else found

    monkeypatch.setattr(consistency_pairs, "match", stopped_match)
    report = consistency(runs, LEAST)
    assert not report.summary.certified
    assert report.summary.upper_bound == pytest.approx(report.summary.pw_mcc + 0.01)
    assert report.summary.stopped == ["seed 0 and seed 2, all features: time budget of 1 s spent"]
    assert report.pairs["certified"].to_pylist() == [True, False, True]
    assert report.pairs["stopped"].to_pylist()[1] == "all features: time budget of 1 s spent"


def test_a_time_budget_that_is_too_short_gives_a_bracket_around_the_value(rng):
    runs = [Run(str(k), rng.standard_normal((2100, 24)).astype(np.float32)) for k in range(2)]
    early = consistency(runs, LEAST.model_copy(update={"time_budget_s": 1e-3})).summary
    exact = consistency(runs, LEAST).summary
    assert exact.certified
    assert exact.upper_bound == exact.pw_mcc
    assert not early.certified
    assert len(early.stopped) == 1
    assert early.pw_mcc <= exact.pw_mcc <= early.upper_bound


def test_an_encoder_that_is_not_finite_is_refused_by_run_and_column(runs):
    W_enc = runs[1].W_enc.copy()
    W_enc[2, 7] = np.nan
    with pytest.raises(ValueError, match=r"the encoder of seed 1 \(columns as rows\): row 7 is not finite"):
        consistency([runs[0], replace(runs[1], W_enc=W_enc)], LEAST)


def test_the_time_budget_reaches_every_matching(runs, monkeypatch):
    budgets = []
    for module in ("pairs", "nulls", "initialisation"):

        def watched(*args, **kwargs):
            budgets.append(kwargs["time_budget_s"])
            return match(*args, **kwargs)

        monkeypatch.setattr(f"sae_core.consistency.{module}.match", watched)
    bare = [replace(run, W_enc=None) for run in runs[:2]]
    consistency(bare, EVERYTHING.model_copy(update={"time_budget_s": 60.0, "consensus": False, "core": False}))
    assert budgets == [60.0] * 6  # all, signed, alive, two nulls, step 0


def test_the_whole_report_depends_on_its_input_alone(runs):
    first, second = (consistency(runs, EVERYTHING) for _ in range(2))
    assert first.summary == second.summary
    for name in ("pairs", "matches", "features", "core_curve"):
        assert getattr(first, name).equals(getattr(second, name))


def test_different_widths_are_refused_before_anything_is_measured():
    calls = []
    with pytest.raises(ValueError, match="same d_in: seed 0 has 3, seed 1 has 4"):
        consistency([Run("seed 0", np.eye(3)), Run("seed 1", np.eye(4))], progress=lambda *call: calls.append(call))
    assert calls == []
