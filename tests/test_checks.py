"""Asset checks: what fails, and whether it blocks what lies downstream."""

import json
import math
from pathlib import Path

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets import checks
from assets.checks import Agreement, in_store, not_lower
from assets.checks.common import not_finite, results
from assets.recording import StoreResource, record
from sae_core.architectures import build
from sae_core.config import (
    BLOCKING,
    BatchTopKConfig,
    ChecksConfig,
    GatedConfig,
    JumpReLUConfig,
    MatryoshkaBatchTopKConfig,
    StandardConfig,
    StudyConfig,
    TopKConfig,
)
from sae_core.formats import save_sae
from sae_core.store import Artifact, Manifest

KEY = dg.AssetKey("x")
LIMITS = ChecksConfig()
TOPK = TopKConfig(d_sae=64, k=16)
ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN


def artifact(path="/nowhere", inputs=None, **summary):
    """An artifact of no files."""
    digests = {"fingerprint": "f", "code_version": "1", "content": "c"}
    made = {"environment": {}, "created": "", "seconds": 0, "upstream": {}, "files": {}}
    manifest = Manifest(format_version=1, kind="thing", inputs=inputs or {}, summary=summary, **digests, **made)
    return Artifact(lambda: Path(path), str(path), manifest, cache_hit=False)


def outcome(found):
    return {result.check_name: result.passed for result in found}


def failures(found):
    return {result.check_name for result in found if not result.passed}


def stored(store, write, kind="thing", **inputs):
    return store.get_or_build(kind, lambda folder: (write(folder), {})[1], code_version="1", inputs=inputs)


def study(**changes):
    return StudyConfig.model_validate(
        {
            "name": "s",
            "model": "m",
            "hook": "h",
            "variants": [{"architecture": "topk", "d_sae": 64, "k": 16}],
            "seeds": [0, 1],
            "training": {"n_steps": 10_000},
        }
        | changes
    )


# --- all stages


def test_a_file_that_is_missing_or_cut_short_blocks(store):
    made = stored(store, lambda folder: (folder / "a").write_text("hello"))
    assert outcome(checks.context_checks(KEY, made, LIMITS)) == {"verified": True, "finite": True}
    (made.path / "a").write_text("hel")
    result, _ = checks.context_checks(KEY, made, LIMITS)
    assert (result.passed, result.severity) == (False, ERROR)
    assert result.metadata["wrong"].value == "thing: a has 3 bytes, expected 5"
    (made.path / "a").unlink()
    assert checks.context_checks(KEY, made, LIMITS)[0].metadata["wrong"].value == "thing: a is missing"


def test_numbers_that_are_not_finite_are_named_wherever_they_stand():
    values = {"a": 1.0, "b": [0, math.nan], "c": {"d": -math.inf, "e": None}}
    assert not_finite(values) == ["b[1]: nan", "c.d: -inf"]


def test_every_result_says_what_was_found_what_was_expected_and_what_to_do():
    good, bad = (checks.Check("fve", passed, math.nan, "at least 1", "train longer") for passed in (True, False))
    good, bad = results(KEY, [good]), results(KEY, [bad])
    assert [r[0].metadata["what_to_do"].value for r in (good, bad)] == ["nothing", "train longer"]
    assert bad[0].metadata["value"].value == "nan"  # the UI cannot show a number that is no JSON
    assert bad[0].description == "expected at least 1; train longer"


def test_a_study_may_make_a_warning_block_and_a_blocking_check_warn():
    limits = ChecksConfig(blocking=["fve"], min_fve=0.9)
    specs = checks.check_specs(KEY, checks.sae_checks, limits.blocking)
    assert [spec.name for spec in specs if spec.blocking] == ["fve"]
    found = checks.sae_checks(KEY, artifact(), evaluation(fve=math.nan), 8, TOPK, limits)
    assert {r.check_name: r.severity for r in found if not r.passed} == {"finite": WARN, "shapes": WARN, "fve": ERROR}


def test_a_check_that_no_stage_has_is_refused():
    with pytest.raises(ValueError, match="blocking"):
        ChecksConfig(blocking=["no-such-check"])


# --- activations


def shards(folder, d_in=4, n_rows=(6, 3)):
    for split, n in zip(("train", "held_out"), n_rows, strict=True):
        (folder / split).mkdir()
        rows = pa.array([b"\0" * 2 * d_in] * n, pa.binary(2 * d_in))
        pq.write_table(pa.table({"activation": rows}), folder / split / "shard-00000.parquet")


@pytest.mark.parametrize(
    ("summary", "named"),
    [
        ({}, ""),
        ({"d_in": 5}, "train/shard-00000.parquet: 8 bytes an activation, expected 10"),
        ({"n_held_out_tokens": 4}, "held_out: 3 rows, expected 4"),
    ],
    ids=["as promised", "other width", "rows missing"],
)
def test_activations_have_the_rows_and_the_width_that_their_summary_says(store, summary, named):
    said = {"d_in": 4, "dtype": "float16", "n_train_tokens": 6, "n_held_out_tokens": 3} | summary
    made = store.get_or_build(
        "activations", lambda folder: shards(folder) or said, code_version="1", inputs={"said": said}
    )
    result = checks.activation_checks(KEY, {"activations": made})[2]
    assert (result.check_name, result.passed, result.severity) == ("shapes", not named, ERROR)
    assert named in result.metadata["wrong"].value


def test_a_shard_that_is_no_parquet_file_fails_and_raises_nothing(store):
    said = {"d_in": 4, "dtype": "float16", "n_train_tokens": 6, "n_held_out_tokens": 3}
    made = store.get_or_build("activations", lambda folder: shards(folder) or said, code_version="1", inputs={})
    path = made.path / "train" / "shard-00000.parquet"
    path.write_bytes(b"\0" * path.stat().st_size)
    assert failures(checks.activation_checks(KEY, {"activations": made})) == {"shapes"}


# --- SAEs


def evaluation(**changes):
    return artifact(**({"l0": 16.0, "fve": 0.8, "dead_fraction": 0.1} | changes))


def trained(folder, variant=TOPK, d_in=8):
    save_sae(build(variant, d_in, 0).finished(), folder)
    return artifact(folder)


@pytest.mark.parametrize(
    ("changes", "failed"),
    [({}, set()), ({"fve": 0.69}, {"fve"}), ({"dead_fraction": 0.6}, {"alive"}), ({"l0": 25.0}, {"l0_on_target"})],
)
def test_a_poor_sae_warns_and_does_not_block(tmp_path, changes, failed):
    found = checks.sae_checks(KEY, trained(tmp_path), evaluation(**changes), 8, TOPK, LIMITS)
    assert failures(found) == failed
    assert {r.severity for r in found if not r.passed} <= {WARN}


@pytest.mark.parametrize(
    "variant",
    [
        TOPK,
        BatchTopKConfig(d_sae=64, k=16),
        MatryoshkaBatchTopKConfig(d_sae=64, k=16, group_fractions=[0.5, 0.5]),
        JumpReLUConfig(d_sae=64, target_l0=16),
        StandardConfig(d_sae=64, l1_coefficient=1.0),
        GatedConfig(d_sae=64, l1_coefficient=1.0),
    ],
    ids=lambda v: v.architecture,
)
def test_the_shapes_of_every_architecture_are_read_from_its_file_and_compared(tmp_path, variant):
    made = trained(tmp_path, variant)
    wider = variant.model_copy(update={"d_sae": 65})
    passed = [
        outcome(checks.sae_checks(KEY, made, evaluation(), d_in, of, LIMITS))["shapes"]
        for d_in, of in ((8, variant), (9, variant), (8, wider))
    ]
    assert passed == [True, False, False]


def test_weights_that_are_no_safetensors_file_fail_and_raise_nothing(tmp_path):
    for content in (b"", b"\0" * 8, b"\xff" * 100):
        (tmp_path / "sae_weights.safetensors").write_bytes(content)
        assert "shapes" in failures(checks.sae_checks(KEY, artifact(tmp_path), evaluation(), 8, TOPK, LIMITS))


def test_an_sae_is_held_to_its_target_l0_where_it_has_one(tmp_path):
    def l0s(variant):
        found = (checks.sae_checks(KEY, artifact(), evaluation(l0=l0), 8, variant, LIMITS) for l0 in (10.0, 16.0, 25.0))
        return [outcome(each)["l0_on_target"] for each in found]

    for variant in (TOPK, JumpReLUConfig(d_sae=64, target_l0=16)):
        assert l0s(variant) == [False, True, False]
    assert l0s(StandardConfig(d_sae=64, l1_coefficient=1.0)) == [True, True, True]


# --- consistency


def compared(**changes):
    summary = {
        "pw_mcc": 0.3,
        "ci_low": 0.28,
        "ci_high": 0.32,
        "upper_bound": 0.3,
        "certified": True,
        "stopped": [],
        "null_sign_flip": 0.1,
        "kappa_sign_flip": 0.2,
        "null_isotropic": 0.05,
        "kappa_isotropic": 0.26,
        "shared_initialisation": False,
        "shared_initialisation_reason": "at step 0 all pairs of runs are at chance",
        "n_same_index": 1,
        "null_untrained": 0.05,
    }
    return artifact(**(summary | changes))


def consistency(found, of=None, earlier=None):
    return checks.consistency_checks(KEY, found, of or study(), earlier)


def test_a_sound_comparison_passes_all_checks():
    assert failures(consistency(compared())) == set()


@pytest.mark.parametrize(("kappa", "passed"), [(0.3, True), (0.01, False), (-0.1, False), (None, False)])
def test_agreement_at_chance_is_a_warning(kappa, passed):
    found = consistency(compared(kappa_sign_flip=kappa))
    assert outcome(found)["above_null"] == passed
    assert {r.severity for r in found if not r.passed} <= {WARN}


def test_without_the_sign_flip_null_agreement_is_compared_with_random_directions():
    for kappa, passed in ((0.3, True), (0.0, False)):
        made = compared(null_sign_flip=None, kappa_sign_flip=None, kappa_isotropic=kappa)
        assert outcome(consistency(made))["above_null"] == passed


def test_a_matching_that_is_not_proven_blocks_unless_a_time_budget_was_asked_for():
    made = compared(certified=False, upper_bound=0.35, stopped=["time"])
    budget = study(consistency={"time_budget_s": 5})
    (failed,) = [r for r in consistency(made) if not r.passed]
    (warned,) = [r for r in consistency(made, budget) if not r.passed]
    assert (failed.check_name, failed.severity) == ("certified", ERROR)
    assert (warned.check_name, warned.severity) == ("certified", WARN)
    assert warned.metadata["value"].value == "PW-MCC is in [0.3, 0.35]"
    specs = checks.check_specs(KEY, checks.consistency_checks, checks.consistency_blocking(budget))
    assert {spec.name for spec in specs if spec.blocking} == {"verified", "finite"}


def test_runs_that_share_their_start_warn_and_a_study_that_asked_for_it_is_told_so():
    made = compared(shared_initialisation=True)
    (asked,) = [r for r in consistency(made, study(vary=["order"])) if not r.passed]
    (unasked,) = [r for r in consistency(made) if not r.passed]
    assert {asked.check_name, unasked.check_name} == {"own_starts"}
    assert asked.metadata["what_to_do"].value.startswith("as asked for")
    assert "train with other seeds" in unasked.metadata["what_to_do"].value


@pytest.mark.parametrize(
    ("earlier", "passed"),
    [
        (None, True),
        (Agreement(0.32, 0.30, 0.34), True),  # both half widths .02: a drop of .028 is allowed
        (Agreement(0.33, 0.31, 0.35), False),
        (Agreement(0.20, 0.19, 0.21), True),  # higher than before
        (Agreement(0.34, None, None), True),  # no interval: max_drop, .05
        (Agreement(0.36, None, None), False),
    ],
    ids=["no earlier one", "small drop", "large drop", "a rise", "no interval, small", "no interval, large"],
)
def test_pw_mcc_lower_than_before_by_more_than_both_intervals_warns(earlier, passed):
    check = not_lower(Agreement(0.3, 0.28, 0.32), earlier, LIMITS)
    assert check.passed == passed
    if earlier is None:
        assert check.expected == "no earlier one"
    found = consistency(compared(), earlier=earlier)
    assert {r.severity for r in found if not r.passed} <= {WARN}


def test_a_study_may_make_a_drop_block():
    of = study(checks={"blocking": [*BLOCKING, "not_lower"]})
    (failed,) = [r for r in consistency(compared(), of, Agreement(0.9, 0.88, 0.92)) if not r.passed]
    assert (failed.check_name, failed.severity) == ("not_lower", ERROR)


def test_the_earlier_result_is_the_last_one_with_another_content(store):
    partitions, contents, found = dg.StaticPartitionsDefinition(["a", "b"]), ["0.5", "0.9", "0.4", "0.4", "0.5"], []

    @dg.asset(partitions_def=partitions)
    def compare(context: dg.AssetExecutionContext):
        content = contents[len(found)]
        made = stored(store, lambda folder: (folder / "f").write_text(content), "consistency", content=content)
        found.append(checks.earlier_agreement(context, dg.AssetKey("compare"), context.partition_key, made))
        return record({"consistency": made}, {"pw_mcc": float(content), "ci_low": 0.1})

    with dg.DagsterInstance.ephemeral() as instance:
        for partition in ("a", "b", "a", "a", "a"):
            assert dg.materialize([compare], instance=instance, partition_key=partition).success
    assert [None if each is None else each.pw_mcc for each in found] == [None, None, 0.5, 0.5, 0.4]
    assert found[2].half_width is None
    assert found[2].run_id


# --- explanations


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
    assert failures(checks.explanation_checks(KEY, {"explanations": few}, LIMITS)) == set()
    both = {"explanations": few, "explanations local": many}
    _, result = checks.explanation_checks(KEY, both, LIMITS)
    assert (result.passed, result.severity) == (False, WARN)
    assert result.metadata["missing_fraction/lexical"].value == 0.05
    assert result.metadata["value"].value == result.metadata["missing_fraction/local"].value == 0.75
    assert result.metadata["missing/local"].value == "150 fired too rarely"


def test_an_explainer_without_a_feature_of_this_run_is_no_failure():
    none = artifact(explainer="chat", n_explanations=0, n_missing=0, missing={})
    assert failures(checks.explanation_checks(KEY, {"explanations": none}, LIMITS)) == set()


def test_pairs_without_a_similarity_warn():
    assert outcome(checks.similarity_checks(KEY, similarity(), LIMITS))["explained"]
    assert not outcome(checks.similarity_checks(KEY, similarity(n_used=10), LIMITS))["explained"]


@pytest.mark.parametrize(("auc", "passed"), [(0.5, True), (0.59, True), (0.61, False), (0.35, False), (None, True)])
def test_shuffled_matches_that_are_more_alike_than_decoys_warn_by_any_measure(auc, passed):
    found = {r.check_name: r for r in checks.similarity_checks(KEY, similarity(auc_shuffled=auc), LIMITS)}
    assert found["shuffled_near_half"].passed == passed
    assert found["shuffled_near_half"].severity == WARN


@pytest.mark.parametrize(
    ("made", "failed", "severity"),
    [
        (scores(), set(), None),
        (scores(n=0, median=None), {"measured"}, WARN),
        (scores(scores=[]), {"measured"}, WARN),
        (scores(median=None), {"finite"}, ERROR),
        (scores(median=float("inf")), {"finite"}, ERROR),
        (scores(n_explanations=0, scores=[]), set(), None),
    ],
    ids=["fine", "none defined", "none asked for", "a number lost", "infinite", "nothing to score"],
)
def test_scores_must_be_there_and_be_numbers(made, failed, severity):
    found = checks.score_checks(KEY, {"scores": made}, {"explanations": explained(0)}, LIMITS)
    assert failures(found) == failed
    assert {result.severity for result in found if not result.passed} == ({severity} if severity else set())


# --- synthetic studies


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
    return artifact(folder, {"points": ["first", "second"]})


@pytest.mark.parametrize(
    ("changes", "name", "severity", "named"),
    [
        ({"gt_mcc": float("nan")}, "finite", ERROR, "second"),
        ({"certified": False}, "certified", ERROR, "second"),
        ({"chance_like": ["gt_mcc"]}, "above_chance", WARN, "second (gt_mcc)"),
    ],
    ids=["finite", "certified", "above_chance"],
)
def test_a_wrong_number_of_an_experiment_blocks_and_one_at_chance_warns(tmp_path, changes, name, severity, named):
    (failed,) = [r for r in checks.experiment_checks(KEY, experiment(tmp_path, **changes)) if not r.passed]
    assert (failed.check_name, failed.severity) == (name, severity)
    assert named in [value.value for value in failed.metadata.values()]


def test_every_check_that_is_declared_is_made_and_the_other_way_round(tmp_path):
    activations = artifact(d_in=4, dtype="float16", n_train_tokens=0, n_held_out_tokens=0)
    of_explainer = {"explanations": explained(0)}
    made = {
        checks.activation_checks: [{"activations": activations}],
        checks.sae_checks: [artifact(), evaluation(), 8, TOPK, LIMITS],
        checks.consistency_checks: [compared(), study(), None],
        checks.context_checks: [artifact(), LIMITS],
        checks.explanation_checks: [of_explainer, LIMITS],
        checks.score_checks: [{"scores": scores()}, of_explainer, LIMITS],
        checks.similarity_checks: [similarity(), LIMITS],
        checks.model_versions_checks: [artifact(), LIMITS],
        checks.report_checks: [artifact(), LIMITS],
        checks.experiment_checks: [experiment(tmp_path)],
        checks.reproduction_checks: [artifact()],
    }
    assert {function.__name__ for function in made} == set(checks.declared_checks())
    for function, arguments in made.items():
        found = function(KEY, *arguments)
        assert [spec.name for spec in checks.check_specs(KEY, function)] == [result.check_name for result in found]
        assert all({"value", "expected", "what_to_do"} <= set(result.metadata) for result in found)


# --- in Dagster


@pytest.mark.parametrize(("d_in", "made"), [(8, ["sae", "after"]), (9, ["sae"])], ids=["right shape", "wrong shape"])
def test_a_blocking_check_stops_what_lies_downstream_in_a_real_run(tmp_path, d_in, made):
    save_sae(build(TOPK, 8, 0), tmp_path)

    @dg.asset(check_specs=checks.check_specs(dg.AssetKey("sae"), checks.sae_checks))
    def sae():
        found = checks.sae_checks(dg.AssetKey("sae"), artifact(tmp_path), evaluation(fve=0.1), d_in, TOPK, LIMITS)
        return dg.MaterializeResult(check_results=found)

    @dg.asset(deps=[sae])
    def after(): ...

    result = dg.materialize([sae, after], raise_on_error=False)
    assert [event.asset_key.to_user_string() for event in result.get_asset_materialization_events()] == made
    assert result.success == (made == ["sae", "after"])


@pytest.fixture
def shelf(store, tmp_path):
    """An asset of three partitions in a store, with its check ``in_store``."""
    rng = np.random.default_rng(0)

    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["a", "b", "c"]))
    def thing(context: dg.AssetExecutionContext):
        content = rng.bytes(8)
        made = stored(store, lambda folder: (folder / "f").write_bytes(content), name=context.partition_key)
        return record({"thing": made}, {})

    (check,) = in_store.in_store_checks([thing])
    resource = StoreResource(root=str(tmp_path / "store"))
    definitions = dg.Definitions(assets=[thing], asset_checks=[check], resources={"store": resource})
    with dg.DagsterInstance.ephemeral() as instance:
        job = definitions.resolve_implicit_global_asset_job_def()
        for partition in ("a", "b"):
            assert job.execute_in_process(instance=instance, partition_key=partition).success

        def verify(**config):
            selected = dg.AssetSelection.checks(check)
            of_checks = dg.define_asset_job("v", selected).resolve(asset_graph=definitions.resolve_asset_graph())
            ran = of_checks.execute_in_process(
                instance=instance,
                resources={"store": resource},
                run_config={"ops": {"thing_in_store": {"config": config}}},
            )
            (found,) = ran.get_asset_check_evaluations()
            return found

        yield store, verify


def test_the_check_in_store_names_the_partitions_whose_artifact_is_gone_or_altered(shelf):
    store, verify = shelf
    found = verify()
    assert (found.passed, found.metadata["n_artifacts"].value) == (True, 2)  # c was never made: nothing is promised
    a, b = (store.get("thing", made.manifest.fingerprint) for made in sorted(store.artifacts(), key=_name))
    (a.path / "f").write_bytes(b"12345678")  # as long as before
    assert verify().passed
    found = verify(hash=True)
    assert (found.passed, found.severity) == (False, ERROR)
    assert "f has sha256" in found.metadata["wrong"].value
    store.remove(b)
    found = verify()
    assert found.metadata["value"].value == 1
    assert "| b | " in found.metadata["wrong"].value
    assert "no artifact there" in found.metadata["wrong"].value


def _name(made):
    return made.manifest.inputs["name"]
