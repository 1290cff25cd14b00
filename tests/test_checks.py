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


def test_many_missing_explanations_warn():
    few = artifact(n_missing=10, n_features=100)
    many = artifact(n_missing=150, n_features=100)
    assert outcome(checks.explanation_checks(KEY, few, LIMITS)) == {"explained": True}
    assert outcome(checks.explanation_checks(KEY, many, LIMITS)) == {"explained": False}
    assert outcome(checks.similarity_checks(KEY, artifact(n_used=10, n_matched=100), LIMITS)) == {"explained": False}


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
        "explanation_checks": checks.explanation_checks(KEY, artifact(n_missing=0, n_features=1), LIMITS),
        "similarity_checks": checks.similarity_checks(KEY, artifact(n_used=1, n_matched=1), LIMITS),
        "experiment_checks": checks.experiment_checks(KEY, experiment(tmp_path)),
    }
    for name, results in made.items():
        declared = checks.check_specs(KEY, getattr(checks, name))
        assert [spec.name for spec in declared] == [result.check_name for result in results]
