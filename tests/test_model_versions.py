"""Two versions of a model: planted dictionaries whose agreement is known, refusals, the artifact, and what is shown."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from sae_core.architectures import build
from sae_core.chain import make_report, settings_of
from sae_core.config import ConsistencyConfig, TopKConfig
from sae_core.consistency import Run, consistency, jackknife, write_consistency
from sae_core.consistency.statistics import pseudo_values
from sae_core.formats import save_sae
from sae_core.model_versions import (
    NotComparable,
    Version,
    VersionRuns,
    VersionsSummary,
    across_statistics,
    compare_versions,
    earlier_model,
)
from sae_core.report.pictures import model_versions_figure
from sae_core.report.reading import markdown_versions
from sae_core.report.version_tables import conclusion
from sae_core.store import ArtifactStore, StoreError
from sae_core.version_chain import make_model_versions, versions_from

from .small_study import MODEL, make_variants, study_config

N, D = 48, 16
CONFIG = ConsistencyConfig(n_null_draws=2)
LEAST = ConsistencyConfig(
    n_null_draws=1, signed=False, joint=False, merged=False, core=False, consensus=False, n_activation_tokens=0
)
START = datetime(2026, 1, 5, 12, tzinfo=UTC)


def mcc(a, b):
    """The oracle: scipy on the full matrix of absolute cosines."""
    a, b = (W / np.linalg.norm(W, axis=1, keepdims=True) for W in (a, b))
    cosines = np.abs(a @ b.T)
    return cosines[linear_sum_assignment(-cosines)].mean()


def version(dictionaries):
    """A version of these decoders, its agreement within by the oracle."""
    names, n = list(dictionaries), len(dictionaries)
    within = np.array([[mcc(dictionaries[a], dictionaries[b]) if a != b else np.nan for b in names] for a in names])
    agreement = {
        name: np.full(len(W), within[i][np.arange(n) != i].mean()) for i, (name, W) in enumerate(dictionaries.items())
    }
    return VersionRuns(
        dictionaries, within, agreement, {name: np.full(len(W), 0.1) for name, W in dictionaries.items()}
    )


def noisy(truth, rng, noise=0.05, n_runs=3, first=0):
    """Runs that found the same features up to noise, in orders of their own."""
    return {
        f"seed {first + i}": (truth + noise * rng.standard_normal(truth.shape))[rng.permutation(len(truth))]
        for i in range(n_runs)
    }


def rotation(rng):
    return np.linalg.qr(rng.standard_normal((D, D)))[0]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def truth(rng):
    return rng.standard_normal((N, D))


def test_the_mean_across_is_that_of_scipy_over_all_pairs_of_an_old_and_a_new_run(rng, truth):
    old, new = noisy(truth, rng, 0.5), noisy(truth, rng, 0.5, n_runs=4)
    across = compare_versions(version(old), version(new), CONFIG).across
    expected = np.array([[mcc(a, b) for b in new.values()] for a in old.values()])
    same = np.eye(3, 4, dtype=bool)
    assert across.pw_mcc_across == pytest.approx(expected.mean())
    assert across.pw_mcc_same_seed == pytest.approx(expected[same].mean())
    assert across.pw_mcc_different_seed == pytest.approx(expected[~same].mean())
    assert (across.n_pairs_same_seed, across.n_pairs_different_seed) == (3, 9)
    within = (across.within_old + across.within_new) / 2
    assert across.difference == pytest.approx(expected[~same].mean() - within)
    assert across.difference_all_pairs == pytest.approx(expected.mean() - within)
    assert across.certified
    assert across.upper_bound == pytest.approx(across.pw_mcc_across)


def test_a_model_whose_features_stayed_differs_no_more_than_its_seeds_do(rng, truth):
    across = compare_versions(version(noisy(truth, rng)), version(noisy(truth, rng)), CONFIG).across
    assert across.pw_mcc_across > 0.99
    assert across.difference == pytest.approx(0, abs=0.002)
    assert across.share_new == {"0.5": 0.0, "0.7": 0.0, "0.9": 0.0} == across.share_lost


def test_a_rotated_basis_leaves_no_more_than_chance_though_either_version_agrees_with_itself(rng, truth):
    old, new = noisy(truth, rng), noisy(truth @ rotation(rng), rng)
    across = compare_versions(version(old), version(new), CONFIG).across
    assert min(across.within_old, across.within_new) > 0.99
    assert across.pw_mcc_across == pytest.approx(across.null, abs=0.05)
    assert across.kappa_sign_flip == pytest.approx(0, abs=0.1)
    assert across.difference_ci_high < -0.3
    assert across.share_new["0.9"] == 1.0 == across.share_lost["0.9"]


def test_rotating_both_versions_together_changes_nothing(rng, truth):
    old, new, turn = noisy(truth, rng), noisy(truth, rng, 0.8), rotation(rng)
    turned = [version({name: W @ turn for name, W in each.items()}) for each in (old, new)]
    plain = compare_versions(version(old), version(new), CONFIG).across
    assert compare_versions(*turned, CONFIG).across.pw_mcc_across == pytest.approx(plain.pw_mcc_across)


def test_features_that_are_new_are_listed_and_counted(rng, truth):
    half = N // 2
    changed = np.concatenate([truth[:half], rng.standard_normal((half, D))])
    old, new = noisy(truth, rng, 0.01), noisy(changed, rng, 0.01)
    report = compare_versions(version(old), version(new), CONFIG)
    assert report.across.share_new["0.9"] == pytest.approx(0.5)
    assert report.across.share_lost["0.9"] == pytest.approx(0.5)
    assert report.across.n_agreed_new["0.9"] == 3 * N
    of_new = report.features.filter(pc.equal(report.features["version"], "new"))
    found = of_new.filter(pc.less(of_new["best_of_all"], 0.9)).to_pylist()
    for row in found:
        direction = new[row["run"]][row["feature"]]
        cosines = np.abs(changed @ direction) / np.linalg.norm(changed, axis=1) / np.linalg.norm(direction)
        assert cosines.argmax() >= half
    assert report.features.num_rows == 6 * N


def test_what_a_feature_has_in_the_other_version_is_the_mean_over_its_runs_and_the_best_of_them(rng, truth):
    old, new = noisy(truth, rng, 0.5), noisy(truth, rng, 0.5)
    rows = compare_versions(version(old), version(new), CONFIG).features.to_pylist()
    row = next(row for row in rows if row["version"] == "new" and row["run"] == "seed 1" and row["feature"] == 7)
    unit = {n: W / np.linalg.norm(W, axis=1, keepdims=True) for n, W in old.items()}
    feature = new["seed 1"][7] / np.linalg.norm(new["seed 1"][7])
    best = [np.abs(W @ feature).max() for W in unit.values()]
    assert row["best"] == pytest.approx(np.mean(best))
    assert row["best_of_all"] == pytest.approx(max(best))
    assert row["n_matched"] == 3
    assert row["across"] <= row["best"] + 1e-9


def test_a_feature_without_a_partner_has_no_value_and_a_row_of_zeros_none_at_all(rng, truth):
    old, new = version(noisy(truth[:40], rng)), version(noisy(truth, rng))
    new.dictionaries["seed 0"][5] = 0
    table = compare_versions(old, new, CONFIG).features
    of_new = table.filter(pc.equal(table["version"], "new"))
    unmatched = of_new.filter(pc.equal(of_new["n_matched"], 0))
    assert unmatched.num_rows >= 3 * 8
    assert unmatched["across"].null_count == unmatched.num_rows
    zero = next(row for row in of_new.to_pylist() if row["run"] == "seed 0" and row["feature"] == 5)
    assert (zero["best"], zero["best_of_all"], zero["across"]) == (None, None, None)


def test_seeds_of_equal_name_count_apart_for_they_began_alike(rng, truth):
    own = {f"seed {i}": rng.standard_normal((N, D)) for i in range(3)}
    old = {name: truth + W for name, W in own.items()}
    new = {name: truth + W + 0.01 * rng.standard_normal((N, D)) for name, W in own.items()}
    across = compare_versions(version(old), version(new), CONFIG).across
    assert across.pw_mcc_same_seed > 0.99 > across.pw_mcc_different_seed + 0.1
    assert across.difference == pytest.approx(0, abs=0.01)  # different seeds agree as far as seeds within do
    assert across.difference_all_pairs > 0.05
    apart = compare_versions(version(old), version({f"seed {i + 9}": W for i, W in enumerate(new.values())}), CONFIG)
    assert apart.across.pw_mcc_same_seed is None
    assert apart.across.n_pairs_different_seed == 9


def test_pseudo_values_of_the_mean_over_all_pairs_are_the_means_of_a_runs_pairs(rng):
    values = rng.uniform(size=(5, 4))
    within = [np.where(np.eye(n), np.nan, 0.5) for n in (5, 4)]
    found = across_statistics(values, *within, np.zeros((5, 4), bool))
    variance = values.mean(axis=1).var(ddof=1) / 5 + values.mean(axis=0).var(ddof=1) / 4
    assert found.mean == pytest.approx(values.mean())
    assert found.interval.standard_error == pytest.approx(np.sqrt(variance))
    assert found.difference == pytest.approx(values.mean() - 0.5)


def test_the_uncertainty_within_counts_as_the_jackknife_within_counts_it(rng):
    def symmetric(n):
        values = rng.uniform(size=(n, n))
        return np.where(np.eye(n), np.nan, (values + values.T) / 2)

    old, new = symmetric(5), symmetric(6)
    found = across_statistics(np.full((5, 6), 0.8), old, new, np.zeros((5, 6), bool))
    parts = [pseudo_values(each).var(ddof=1) / 4 / len(each) for each in (old, new)]
    assert found.difference_interval.standard_error == pytest.approx(np.sqrt(sum(parts)))
    assert parts[0] == pytest.approx((jackknife(old).standard_error / 2) ** 2)


def test_the_interval_of_the_difference_covers_a_true_zero(rng):
    """Agreement as a sum of something of either run: 95 % intervals around a difference of zero."""
    covered = []
    for _ in range(200):
        old, new = rng.normal(0, 0.1, 4), rng.normal(0, 0.1, 5)
        across, within_old, within_new = (0.5 + a[:, None] + b for a, b in ((old, new), (old, old), (new, new)))
        noise = rng.normal(0, 0.02, across.shape)
        found = across_statistics(across + noise, within_old, within_new, np.eye(4, 5, dtype=bool))
        covered.append(found.difference_interval.low <= 0 <= found.difference_interval.high)
    assert np.mean(covered) > 0.93


def test_two_runs_of_a_version_give_a_value_without_an_interval(rng, truth):
    across = compare_versions(version(noisy(truth, rng, n_runs=2)), version(noisy(truth, rng)), CONFIG).across
    assert across.difference is not None
    assert (across.across_ci_low, across.difference_ci_high) == (None, None)
    assert across.ci_reason == "an interval needs three runs of either version: got 2 and 3"


def test_without_draws_there_is_no_sign_flip_null_and_a_reason(rng, truth):
    none = ConsistencyConfig(n_null_draws=0)
    across = compare_versions(version(noisy(truth, rng)), version(noisy(truth, rng)), none).across
    assert (across.null_sign_flip, across.kappa_sign_flip, across.histogram.null_counts) == (None, None, None)
    assert across.not_measured == {"null_sign_flip": "switched off (n_null_draws: 0)"}
    assert across.null == across.null_isotropic


def test_another_width_is_not_comparable(rng, truth):
    other = version(noisy(rng.standard_normal((N, D + 1)), rng))
    with pytest.raises(NotComparable, match="earlier version are 16 wide, those of the current one 17"):
        compare_versions(version(noisy(truth, rng)), other, CONFIG)


def test_values_that_are_not_of_the_same_runs_are_refused(rng, truth):
    good = version(noisy(truth, rng))
    with pytest.raises(ValueError, match="the agreement of seed 0 must be one number for each of its 48 features"):
        replace(good, agreement={})
    with pytest.raises(ValueError, match="need matrices within"):
        across_statistics(np.ones((3, 3)), good.within, good.within[:2, :2], np.eye(3, dtype=bool))
    with pytest.raises(ValueError, match="two runs of either version are needed: got 1 and 3"):
        across_statistics(np.ones((1, 3)), np.ones((1, 1)), good.within, np.zeros((1, 3), bool))
    with pytest.raises(ValueError, match="is not finite"):
        across_statistics(np.full((3, 3), np.nan), good.within, good.within, np.eye(3, dtype=bool))


class Model:
    """A version of a language model: what is made of it, without Dagster."""

    def __init__(self, store, name, truth, rng, n_runs=3, **changes):
        settings = {"corpus": "text", "k": 4, "lr": 1e-3, "hook": "model.layers.1", "code": "2", "elsewhere": False}
        settings |= changes
        self.store, self.settings = store, settings
        contexts = self.make("contexts", {"model": name * 64, "corpus": settings["corpus"]})
        self.activations = self.make(
            "activations",
            {"model": name * 64, "hook": settings["hook"]},
            {"contexts": contexts},
            {"d_in": truth.shape[1]},
        )
        self.dictionaries = noisy(truth, rng, n_runs=n_runs)
        self.saes = {f"sae {run}": self.sae(run, W) for run, W in self.dictionaries.items()}

    def make(self, kind, inputs, upstream=None, summary=None, write=lambda folder: None, code="1"):
        def build(folder):
            made_of = {name: artifact.content for name, artifact in (upstream or {}).items()}
            (folder / "data.json").write_text(json.dumps([inputs, made_of]))
            write(folder)
            return summary or {}

        return self.store.get_or_build(kind, build, code_version=code, inputs=inputs, upstream=upstream)

    def sae(self, run, W_dec):
        built = build(TopKConfig(d_sae=len(W_dec), k=4), W_dec.shape[1], 0).requires_grad_(False)
        built.W_dec[:] = torch.from_numpy(W_dec)
        inputs = {"variant": {"k": self.settings["k"]}, "training": {"lr": self.settings["lr"]}, "seeds": run}
        if self.settings["elsewhere"]:
            inputs = {"format": "saelens", "files": run}
        return self.make(
            "sae", inputs, {"activations": self.activations}, write=lambda folder: save_sae(built, folder, {})
        )

    def consistency(self):
        runs = [Run(name, W.astype(np.float32), np.full(len(W), 0.1)) for name, W in self.dictionaries.items()]
        report = consistency(runs, LEAST)
        summary = report.summary.model_dump(mode="json")
        return self.make(
            "consistency",
            {"config": settings_of(LEAST), "runs": list(self.dictionaries)},
            {"activations": self.activations, **self.saes},
            summary,
            lambda folder: write_consistency(folder, report),
            self.settings["code"],
        )


def listed(*consistencies):
    """Versions that were materialized one after the other, an hour apart."""
    times = [START + timedelta(hours=i) for i in range(len(consistencies))]
    return [Version(made.content, time, time, made) for made, time in zip(consistencies, times, strict=True)]


def summary_of(made):
    return VersionsSummary.model_validate_json((made.path / "summary.json").read_text())


@pytest.fixture
def compared(store, rng, truth):
    """Three versions: two of one model, of which the second has other text, then another model."""
    first = Model(store, "a", truth, rng).consistency()
    other_text = Model(store, "a", truth, rng, corpus="more text").consistency()
    new = Model(store, "b", np.concatenate([truth[: N // 2], rng.standard_normal((N // 2, D))]), rng).consistency()
    return store, listed(first, other_text, new)


def test_the_current_version_is_compared_with_the_last_one_of_another_model(compared):
    store, versions = compared
    made = make_model_versions(store, versions, LEAST)
    found = summary_of(made)
    assert (found.n_versions, found.n_models, found.n_missing) == (3, 2, 0)
    assert found.compared_with == versions[1].content
    assert found.across.difference_ci_high < -0.1
    assert made.summary["pw_mcc_across"] == found.across.pw_mcc_across
    assert found.across.within_new == pytest.approx(versions[2].consistency.summary["pw_mcc"])
    assert sorted(made.manifest.upstream) == sorted(
        [f"{side}{name}" for side in ("", "earlier ") for name in ("consistency", *(f"sae seed {i}" for i in range(3)))]
    )
    assert pq.read_table(made.path / "features.parquet").num_rows == 6 * N
    which = pq.read_table(made.path / "pairs.parquet")["which"].to_pylist()
    assert {name: which.count(name) for name in set(which)} == {"across": 9, "within old": 3, "within new": 3}
    assert make_model_versions(store, versions, LEAST).cache_hit


def test_every_version_says_what_it_was_made_of_and_what_differs_from_the_one_before(compared):
    store, versions = compared
    rows = summary_of(make_model_versions(store, versions, LEAST)).versions
    assert [row.time for row in rows] == [f"2026-01-05T{12 + i}:00:00+00:00" for i in range(3)]
    assert [row.model[0] for row in rows] == ["a", "a", "b"]
    assert [row.is_current for row in rows] == [False, False, True]
    assert [row.n_runs for row in rows] == [3, 3, 3]
    assert rows[0].differs == []
    assert rows[1].differs == ["corpus: text → more text"]
    assert rows[2].differs == [f"model: {'a' * 12} → {'b' * 12}", "corpus: more text → text"]
    found = summary_of(make_model_versions(store, versions, LEAST))
    assert found.cautions == ["the model is not all that differs: corpus: more text → text"]


def test_settings_seeds_and_code_that_differ_are_named_once_however_many_runs_share_them(store, rng, truth):
    before = Model(store, "a", truth, rng)
    after = Model(store, "a", truth, rng, n_runs=4, lr=2e-3, code="3")
    rows = summary_of(make_model_versions(store, listed(before.consistency(), after.consistency()), LEAST)).versions
    assert rows[1].differs == [
        "code of consistency: 2 → 3",
        "runs: ['seed 0', 'seed 1', 'seed 2'] → ['seed 0', 'seed 1', 'seed 2', 'seed 3']",
        "sae, training.lr: 0.001 → 0.002",
    ]


def test_one_model_is_compared_with_nothing_and_nothing_is_matched(store, rng, truth):
    (only,) = versions = listed(Model(store, "a", truth, rng).consistency())
    made = make_model_versions(store, versions, LEAST)
    assert made.summary == {
        "n_versions": 1, "n_missing": 0, "n_models": 1, "not_compared": "there is no other version of the model",
    }  # fmt: skip
    assert list(made.manifest.upstream) == ["consistency"]
    assert not (made.path / "pairs.parquet").exists()
    assert summary_of(made).versions[0].content == only.content


def test_going_back_to_a_model_compares_with_the_one_in_between(compared):
    store, (first, _, new) = compared
    back = [replace(first, last=START + timedelta(days=1)), new]
    assert earlier_model(store, back).content == new.content
    found = summary_of(make_model_versions(store, back, LEAST))
    assert [row.is_current for row in found.versions] == [True, False]


def test_a_version_that_is_gone_is_counted_and_takes_no_part(compared):
    store, (first, other_text, new) = compared
    versions = [first, replace(other_text, consistency=None), new]
    found = summary_of(make_model_versions(store, versions, LEAST))
    assert (found.n_versions, found.n_missing, found.compared_with) == (3, 1, first.content)
    row = found.versions[1]
    assert (row.in_store, row.model, row.pw_mcc, row.differs) == (False, None, None, [])
    assert "1 of 3 versions is no longer in the store" in conclusion(found)


def test_the_current_version_must_be_there(compared):
    store, (first, _, new) = compared
    with pytest.raises(StoreError, match="is no longer in the store: it was moved or cleaned; materialize consistency"):
        make_model_versions(store, [first, replace(new, consistency=None)], LEAST)
    with pytest.raises(ValueError, match="there is no version"):
        make_model_versions(store, [], LEAST)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"k": 5}, "the settings differ: variant.k 4 → 5"),
        ({"lr": 2e-3}, "the settings differ: training.lr 0.001 → 0.002"),
        ({"hook": "model.layers.2"}, "the hooks differ: model.layers.1 → model.layers.2"),
        ({"elsewhere": True}, "the SAEs were trained elsewhere"),
    ],
)
def test_versions_that_differ_in_more_than_the_model_are_refused_with_a_reason(store, rng, truth, changes, reason):
    before, after = Model(store, "a", truth, rng), Model(store, "b", truth, rng, **changes)
    made = make_model_versions(store, listed(before.consistency(), after.consistency()), LEAST)
    assert made.summary["not_compared"].startswith(f"not comparable: {reason}")
    assert "pw_mcc_across" not in made.summary
    assert "earlier consistency" in made.manifest.upstream


def test_a_model_of_another_size_is_refused_with_a_reason(store, rng, truth):
    other = rng.standard_normal((N, D + 4))
    versions = listed(*(Model(store, n, W, rng).consistency() for n, W in (("a", truth), ("b", other))))
    made = make_model_versions(store, versions, LEAST)
    assert made.summary["not_compared"] == (
        "not comparable: the activations have another width (d_in): 16 → 20, as of a model of another size"
    )


def test_saes_that_are_gone_are_a_reason_and_not_a_crash(compared):
    store, versions = compared
    store.remove(store.upstream(versions[1].consistency)["sae seed 1"])
    made = make_model_versions(store, versions, LEAST)
    assert made.summary["not_compared"] == (
        "not comparable: the SAEs of the earlier version are no longer in the store (seed 1)"
    )


def test_the_artifact_can_be_made_again_from_what_its_manifest_names(compared, tmp_path):
    store, versions = compared
    made = make_model_versions(store, versions, LEAST)
    again = versions_from(ArtifactStore(tmp_path / "again"), made.manifest.inputs, store.upstream(made))
    assert (again.manifest.fingerprint, again.content) == (made.manifest.fingerprint, made.content)


def test_what_is_shown_has_a_sentence_both_tables_and_a_small_picture(compared):
    store, versions = compared
    folder = make_model_versions(store, versions, LEAST).path
    text = markdown_versions(folder)
    assert text.startswith("The features changed with the model, by more than seeds differ: ")
    assert "| variant | across, other seed |" in text
    assert text.count("aaaaaaaaaaaa") == 3
    picture = model_versions_figure(folder)
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 100_000
    assert picture == model_versions_figure(folder)


@pytest.fixture
def page_of(compared, monkeypatch):
    """``page_of(*versions)``: the page of a small study whose variants have these versions."""
    store, versions = compared
    study = study_config([0, 1, 2], [{"architecture": "topk", "d_sae": 64, "k": 4}])
    for name in ("png", "small_png", "pdf_pages"):
        monkeypatch.setattr(f"sae_core.report.writing.{name}", lambda *_, **__: b"")

    made = make_variants(store, study, config=LEAST)["topk-d64-k4"]

    def page(*places):
        found = {"topk-d64-k4": dict(made)}
        if places:
            chosen = [versions[place] for place in places]
            found["topk-d64-k4"]["model_versions"] = make_model_versions(store, chosen, LEAST)
        return (make_report(store, study, MODEL, found).path / "report.html").read_text()

    return page


def test_the_page_has_a_section_for_several_versions_a_sentence_for_one_and_nothing_without_a_history(page_of):
    several, one, unknown = page_of(0, 1, 2), page_of(2), page_of()
    assert several.index("What stands behind it") < several.index("Over model versions")
    assert several.index("Over model versions") < several.index("Do consistent features mean the same thing?")
    for text in ("The features changed with the model", "The last two models compared", "corpus: text → more text"):
        assert text in several
    assert several.count("<figure>") == one.count("<figure>") + 3
    first = "These are the first results of the study"
    assert first in one
    assert first not in several + unknown
    assert "Over model versions" not in one + unknown
    assert "topk-d64-k4 model_versions" in one  # its provenance
