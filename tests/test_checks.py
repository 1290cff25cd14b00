"""Asset checks: what fails, and whether it blocks what lies downstream."""

import json
from types import SimpleNamespace

import dagster as dg
import pytest

from assets import checks
from sae_core.config import (
    BatchTopKConfig,
    ChecksConfig,
    JumpReLUConfig,
    MatryoshkaBatchTopKConfig,
    StandardConfig,
    TopKConfig,
)

KEY = dg.AssetKey("x")
LIMITS = ChecksConfig()


def artifact(**summary):
    return SimpleNamespace(summary=summary, manifest=SimpleNamespace(files={}), path=None)


def outcome(results):
    return {result.check_name: result.passed for result in results}


def evaluation(**changes):
    return artifact(**({"l0": 16.0, "fve": 0.8, "dead_fraction": 0.1} | changes))


@pytest.mark.parametrize(
    ("changes", "failed"),
    [({}, set()), ({"fve": 0.69}, {"fve"}), ({"dead_fraction": 0.6}, {"alive"}), ({"l0": 25.0}, {"l0_on_target"})],
)
def test_a_poor_sae_warns_and_does_not_block(changes, failed):
    results = checks.sae_checks(KEY, artifact(), evaluation(**changes), TopKConfig(d_sae=64, k=16), LIMITS)
    assert {name for name, passed in outcome(results).items() if not passed} == failed
    assert {r.severity for r in results if not r.passed} <= {dg.AssetCheckSeverity.WARN}


@pytest.mark.parametrize(
    "variant",
    [
        TopKConfig(d_sae=64, k=16),
        BatchTopKConfig(d_sae=64, k=16),
        MatryoshkaBatchTopKConfig(d_sae=64, k=16, group_fractions=[0.5, 0.5]),
        JumpReLUConfig(d_sae=64, target_l0=16),
    ],
    ids=lambda v: v.architecture,
)
def test_an_sae_is_held_to_its_target_l0_where_it_has_one(variant):
    passed = [
        outcome(checks.sae_checks(KEY, artifact(), evaluation(l0=l0), variant, LIMITS))["l0_on_target"]
        for l0 in (10.0, 16.0, 25.0)
    ]
    assert passed == [False, True, False]


def test_an_sae_without_a_target_l0_is_not_judged_by_it():
    variant = StandardConfig(d_sae=64, l1_coefficient=1.0)
    assert outcome(checks.sae_checks(KEY, artifact(), evaluation(l0=1.0), variant, LIMITS))["l0_on_target"]


@pytest.mark.parametrize(("kappa", "passed"), [(0.3, True), (0.01, False), (-0.1, False), (None, False)])
def test_agreement_at_chance_is_a_warning(kappa, passed):
    summary = {"pw_mcc": 0.3, "kappa_sign_flip": kappa, "certified": True}
    assert outcome(checks.consistency_checks(KEY, artifact(**summary), LIMITS))["above_null"] == passed


def test_a_matching_that_is_not_proven_blocks():
    summary = {"pw_mcc": 0.3, "kappa_sign_flip": 0.2, "certified": False}
    (failed,) = [r for r in checks.consistency_checks(KEY, artifact(**summary), LIMITS) if not r.passed]
    assert (failed.check_name, failed.severity) == ("certified", dg.AssetCheckSeverity.ERROR)


def test_a_file_that_is_missing_or_cut_short_blocks(store):
    made = store.get_or_build(
        "thing", lambda folder: (folder / "a").write_text("hello") and {}, code_version="1", inputs={}
    )
    assert outcome(checks.activation_checks(KEY, made)) == {"verified": True}
    (made.path / "a").write_text("hel")
    (result,) = checks.activation_checks(KEY, made)
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.ERROR)


def explained(n_missing, explainer="lexical"):
    """200 places, two for each of 100 features."""
    missing = {"fired too rarely": n_missing} if n_missing else {}
    return artifact(explainer=explainer, n_explanations=200 - n_missing, n_missing=n_missing, missing=missing)


def similarity(auc_shuffled=0.52, **changes):
    primary = {"measure": "embedding:lexical", "n_asked": 100, "n_used": 90, "missing": {"x": 10}, "auc_shuffled": 0.5}
    words = {"measure": "words", "n_asked": 100, "n_used": 100, "missing": {}, "auc_shuffled": auc_shuffled}
    return artifact(primary="embedding:lexical", measures=[primary | changes, words])


def scores(n=10, median=0.8, **changes):
    return artifact(
        **({"n_explanations": 10, "scores": [{"name": "detection_auc", "n": n, "median": median}]} | changes)
    )


def test_many_missing_explanations_of_any_explainer_warn():
    few, many = explained(10), explained(150, "local")
    assert outcome(checks.explanation_checks(KEY, {"explanations": few}, LIMITS)) == {"explained": True}
    both = {"explanations": few, "explanations local": many}
    (result,) = checks.explanation_checks(KEY, both, LIMITS)
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert result.metadata["missing_fraction/lexical"].value == 0.05
    assert result.metadata["missing_fraction/local"].value == 0.75
    assert result.metadata["missing/local"].value == "150 fired too rarely"


def test_an_explainer_without_a_feature_of_this_run_is_no_failure():
    none = artifact(explainer="chat", n_explanations=0, n_missing=0, missing={})
    assert outcome(checks.explanation_checks(KEY, {"explanations": none}, LIMITS)) == {"explained": True}


def test_pairs_without_a_similarity_warn():
    assert outcome(checks.similarity_checks(KEY, similarity(), LIMITS))["explained"]
    assert not outcome(checks.similarity_checks(KEY, similarity(n_used=10), LIMITS))["explained"]


@pytest.mark.parametrize(("auc", "passed"), [(0.5, True), (0.59, True), (0.61, False), (0.35, False), (None, True)])
def test_shuffled_matches_that_are_more_alike_than_decoys_warn_by_any_measure(auc, passed):
    results = checks.similarity_checks(KEY, similarity(auc_shuffled=auc), LIMITS)
    assert outcome(results)["shuffled_near_half"] == passed
    assert {result.severity for result in results} == {dg.AssetCheckSeverity.WARN}


@pytest.mark.parametrize(
    ("made", "failed", "severity"),
    [
        (scores(), set(), None),
        (scores(n=0, median=None), {"measured"}, dg.AssetCheckSeverity.WARN),
        (scores(scores=[]), {"measured"}, dg.AssetCheckSeverity.WARN),
        (scores(median=None), {"finite"}, dg.AssetCheckSeverity.ERROR),
        (scores(median=float("inf")), {"finite"}, dg.AssetCheckSeverity.ERROR),
        (scores(n_explanations=0, scores=[]), set(), None),
    ],
    ids=["fine", "none defined", "none asked for", "a number lost", "infinite", "nothing to score"],
)
def test_scores_must_be_there_and_be_numbers(made, failed, severity):
    results = checks.score_checks(KEY, {"scores": made}, {"explanations": explained(0)})
    assert {result.check_name for result in results if not result.passed} == failed
    assert {result.severity for result in results if not result.passed} == ({severity} if severity else set())


def experiment(folder, **changes):
    """An experiment of two points, the second one with changes."""
    good = {"gt_mcc": 0.9, "pw_mcc": 0.8, "certified": True, "chance_like": []}
    points = [
        {
            "recovery": {"gt_mcc": point["gt_mcc"]},
            "consistency": {"pw_mcc": point["pw_mcc"], "certified": point["certified"]},
            "chance_like": point["chance_like"],
        }
        for point in (good, good | changes)
    ]
    (folder / "points.json").write_text(json.dumps(points))
    manifest = SimpleNamespace(files={}, inputs={"points": ["first", "second"]})
    return SimpleNamespace(summary={}, manifest=manifest, path=folder)


@pytest.mark.parametrize(
    ("changes", "name", "severity", "named"),
    [
        ({"gt_mcc": float("nan")}, "finite", dg.AssetCheckSeverity.ERROR, "second"),
        ({"certified": False}, "certified", dg.AssetCheckSeverity.ERROR, "second"),
        ({"chance_like": ["gt_mcc"]}, "above_chance", dg.AssetCheckSeverity.WARN, "second (gt_mcc)"),
    ],
    ids=["finite", "certified", "above_chance"],
)
def test_a_wrong_number_of_an_experiment_blocks_and_one_at_chance_warns(tmp_path, changes, name, severity, named):
    (failed,) = [r for r in checks.experiment_checks(KEY, experiment(tmp_path, **changes)) if not r.passed]
    assert (failed.check_name, failed.severity) == (name, severity)
    assert named in [value.value for value in failed.metadata.values()]


def test_every_check_that_is_declared_is_made_and_the_other_way_round(tmp_path):
    made = {
        "activation_checks": checks.activation_checks(KEY, artifact()),
        "sae_checks": checks.sae_checks(KEY, artifact(), evaluation(), TopKConfig(d_sae=64, k=16), LIMITS),
        "consistency_checks": checks.consistency_checks(
            KEY, artifact(pw_mcc=0.3, kappa_sign_flip=0.2, certified=True), LIMITS
        ),
        "context_checks": checks.context_checks(KEY, artifact()),
        "explanation_checks": checks.explanation_checks(KEY, {"explanations": explained(0)}, LIMITS),
        "score_checks": checks.score_checks(KEY, {"scores": scores()}, {"explanations": explained(0)}),
        "similarity_checks": checks.similarity_checks(KEY, similarity(), LIMITS),
        "experiment_checks": checks.experiment_checks(KEY, experiment(tmp_path)),
    }
    for name, results in made.items():
        declared = checks.check_specs(KEY, getattr(checks, name))
        assert [spec.name for spec in declared] == [result.check_name for result in results]
