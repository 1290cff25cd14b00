import pytest
from pydantic import ValidationError

from sae_core.config import ModelConfig, StandardConfig, StudyConfig, TopKConfig, TrainingConfig

TRAINING = {"n_steps": 10, "warmup_steps": 1, "sparsity_warmup_steps": 0}
STUDY = {
    "name": "s",
    "model": "m",
    "hook": "model.layers.0",
    "variants": [{"architecture": "topk", "d_sae": 16, "k": 2}],
    "seeds": [0, 1],
    "training": TRAINING,
}


def study(**changes):
    return StudyConfig.model_validate(STUDY | changes)


def test_a_variant_is_named_by_its_numbers_and_leaves_out_defaults():
    assert TopKConfig(d_sae=2048, k=32).key == "topk-d2048-k32"
    assert StandardConfig(d_sae=64, l1_coefficient=0.03, lr=1e-3).key == "standard-d64-l1_0.03-lr0.001"


def test_variants_with_other_numbers_have_other_keys():
    variants = [TopKConfig(d_sae=64, k=k, aux_k_coefficient=a) for k in (2, 4) for a in (0.0, 0.5, 1 / 32)]
    assert len({variant.key for variant in variants}) == 6


def test_only_what_a_study_varies_changes_with_its_seed():
    both = study(vary=["init", "order"]).run_seeds(7)
    init = study().run_seeds(7)
    data = study(vary=["data"], training=TRAINING | {"data_fraction": 0.5}).run_seeds(7)
    assert (both.init_seed, both.order_seed, both.data_seed) == (7, 7, 0)
    assert (init.init_seed, init.order_seed, init.data_seed) == (7, 0, 0)
    assert (data.init_seed, data.order_seed, data.data_seed) == (0, 0, 7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sede": 1}, "sede\n  Extra inputs are not permitted"),
        ({"training": TRAINING | {"n_step": 1}}, "training.n_step\n  Extra inputs are not permitted"),
        ({"training": TRAINING | {"lr": "fast"}}, r"training.lr.*\n  Input should be a valid number"),
        ({"seeds": [3]}, r"at least two different seeds: got seeds=\[3\]; add one"),
        ({"seeds": [3, 3]}, r"at least two different seeds: got seeds=\[3, 3\]"),
        ({"seeds": [1, 2, 2]}, "seeds must differ: 2 given more than once"),
        ({"seeds": [-1, 2]}, "greater than or equal to 0"),
        ({"variants": []}, "at least 1 item"),
        ({"variants": STUDY["variants"] * 2}, "variants must differ: topk-d16-k2 given more than once"),
        (
            {"variants": [{"architecture": "topk", "d_sae": 16, "k": 16}]},
            "k must be smaller than d_sae: got k=16, d_sae=16",
        ),
        (
            {"variants": [{"architecture": "topk", "d_sae": 1, "k": 1}]},
            "d_sae\n  Input should be greater than or equal to 2",
        ),
        (
            {"variants": [{"architecture": "topk", "d_sae": 16, "k": 0}]},
            "k\n  Input should be greater than or equal to 1",
        ),
        (
            {"variants": [{"architecture": "vanilla", "d_sae": 16}]},
            "does not match any of the expected tags: 'standard', 'standard_april', 'topk'",
        ),
        ({"variants": [{"architecture": "standard", "d_sae": 16, "l1_coefficient": 0}]}, "greater than 0"),
        ({"vary": []}, "vary must name what a seed changes"),
        ({"vary": ["weather"]}, "Input should be 'init', 'order' or 'data'"),
        (
            {"vary": ["init", "data"]},
            "vary names data, but training.data_fraction is 1, .*set training.data_fraction below 1",
        ),
        ({"training": TRAINING | {"data_fraction": 0}}, "training.data_fraction\n  Input should be greater than 0"),
        ({"training": TRAINING | {"checkpoints": "papers"}}, "Input should be 'paper'"),
        ({"training": TRAINING | {"watch": ["neptune"]}}, "Input should be 'tensorboard' or 'wandb'"),
        ({"name": "a|b"}, "should match pattern"),
    ],
)
def test_a_wrong_study_is_refused_with_field_and_reason(changes, message):
    with pytest.raises(ValidationError, match=message):
        study(**changes)


def test_a_schedule_that_cannot_be_is_refused():
    with pytest.raises(ValidationError, match="warmup_steps must end before the decay starts: got warmup_steps=1000"):
        TrainingConfig(n_steps=100)
    with pytest.raises(ValidationError, match="sparsity_warmup_steps must not exceed n_steps=100: got 5000; lower it"):
        TrainingConfig(n_steps=100, warmup_steps=10)


def test_the_training_defaults_are_those_of_the_paper():
    paper = TrainingConfig(n_steps=244_140)
    assert (paper.batch_size, paper.lr, paper.warmup_steps) == (2048, 3e-4, 1000)
    assert (paper.decay_start, paper.sparsity_warmup_steps, paper.grad_clip) == (0.8, 5000, 1.0)
    assert (paper.b_dec_init, paper.checkpoints, paper.precision) == ("geometric_median", "paper", "float32")
    assert (paper.data_fraction, paper.on_data_end) == (1.0, "repeat")


def test_where_and_how_watched_a_run_is_decides_nothing():
    here = TrainingConfig(n_steps=5000, device="cpu", watch=["wandb"], resume_minutes=3)
    assert here.decisive() == TrainingConfig(n_steps=5000).decisive()
    assert here.decisive() != TrainingConfig(n_steps=5000, precision="bfloat16").decisive()


def test_a_model_file_needs_hooks_and_knows_its_sources():
    file = {
        "name": "m",
        "source": {"kind": "local", "path": "/m"},
        "corpus": {"source": {"kind": "local", "path": "/t"}},
        "hooks": ["a"],
    }
    assert ModelConfig.model_validate(file).source.path == "/m"
    with pytest.raises(ValidationError, match="hooks\n  List should have at least 1 item"):
        ModelConfig.model_validate(file | {"hooks": []})
    with pytest.raises(ValidationError, match="does not match any of the expected tags: 'hub', 'local', 'package'"):
        ModelConfig.model_validate(file | {"source": {"kind": "ftp", "path": "/m"}})


def test_settings_cannot_be_changed_once_made():
    with pytest.raises(ValidationError, match="frozen"):
        study().name = "other"


def test_a_variant_that_is_not_in_the_study_is_named_with_those_that_are():
    with pytest.raises(KeyError, match="has no variant 'x'; it has topk-d16-k2"):
        study().variant("x")


PRETRAINED = {"architecture": "pretrained", "name": "scope", "saes": ["runs/a", "hf://owner/name@main/b"]}


def test_a_study_of_pretrained_saes_alone_needs_no_training():
    found = study(variants=[PRETRAINED], training=None)
    assert found.variants[0].key == "pretrained-scope"
    with pytest.raises(ValueError, match="study s has no training settings: all its variants are pretrained"):
        _ = found.required_training


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": None}, "training is missing: a study that trains SAEs says for how long"),
        ({"variants": [PRETRAINED], "seeds": [0, 1, 2]}, "one SAE for each seed: got 2 saes and 3 seeds"),
        ({"variants": [PRETRAINED | {"saes": ["a", "a"]}]}, "an SAE agrees with itself: a given more than once"),
        ({"variants": [PRETRAINED | {"saes": ["a"]}]}, "at least 2 items"),
        ({"variants": [PRETRAINED, PRETRAINED]}, "variants must differ: pretrained-scope given more than once"),
    ],
)
def test_a_wrong_list_of_pretrained_saes_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        study(**changes)


# --- sweeps ------------------------------------------------------------------------------------------------------

TOPK = {"architecture": "topk", "d_sae": 16, "k": 2}


def keys(*variants):
    return [variant.key for variant in study(variants=list(variants)).variants]


def test_a_sweep_stands_for_a_variant_with_each_of_its_values():
    assert keys(TOPK | {"k": {"sweep": [2, 4, 8]}}) == ["topk-d16-k2", "topk-d16-k4", "topk-d16-k8"]
    assert keys(TOPK | {"lr": {"sweep": [0.001, "auto"]}}) == ["topk-d16-k2-lr0.001", "topk-d16-k2-lrauto"]


def test_several_sweeps_stand_for_all_combinations_beside_entries_without():
    plain = {"architecture": "standard", "d_sae": 16, "l1_coefficient": 0.1}
    found = keys(plain, TOPK | {"d_sae": {"sweep": [16, 32]}, "k": {"sweep": [2, 4]}})
    assert found == ["standard-d16-l1_0.1", "topk-d16-k2", "topk-d16-k4", "topk-d32-k2", "topk-d32-k4"]


def test_what_is_read_has_no_sweep_left():
    read = study(variants=[TOPK | {"k": {"sweep": [2, 4]}}])
    assert StudyConfig.model_validate(read.model_dump(mode="json")) == read
    assert [type(variant) for variant in read.variants] == [TopKConfig, TopKConfig]


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"sweep": []}, r"variants.1.k\n.*with at least one value: got {'sweep': \[\]}; name those to try"),
        ({"sweep": 3}, r"variants.1.k\n.*a sweep is {sweep: \[value, ...\]}"),
        ({"sweep": [1], "by": 2}, r"variants.1.k\n.*a sweep is {sweep: \[value, ...\]}"),
        ({"sweep": [2, "x"]}, r"variants.1.topk.k\n  Input should be a valid integer"),
        ({"sweep": [2, 99]}, r"variants.1.topk\n.*k must be smaller than d_sae: got k=99, d_sae=16"),
        ({"sweep": [2, 2]}, "variants must differ: topk-d16-k2 given more than once"),
        ({"swept": [2]}, r"variants.1.topk.k\n  Input should be a valid integer"),
    ],
)
def test_a_wrong_sweep_is_refused_with_the_place_in_the_file(sweep, message):
    # The entry before stands for two: places are counted in the file, not in what is read from it.
    first = {"architecture": "standard", "d_sae": 16, "l1_coefficient": {"sweep": [0.1, 0.2]}}
    with pytest.raises(ValidationError, match=message):
        keys(first, TOPK | {"k": sweep})


def test_an_error_that_all_combinations_share_is_told_once():
    with pytest.raises(ValidationError) as told:
        keys(TOPK | {"d_sae": {"sweep": [16, 32]}, "aux_k": "many"})
    assert told.value.error_count() == 1


def test_the_schema_of_the_files_takes_a_value_or_a_sweep_of_values():
    k = StudyConfig.model_json_schema()["$defs"]["TopKConfig"]["properties"]["k"]
    one = {"minimum": 1, "type": "integer"}
    sweep = {"type": "array", "items": one, "minItems": 1}
    assert k["anyOf"][0] == one
    assert k["anyOf"][1]["properties"] == {"sweep": sweep}
    assert k["description"] == "Features active on a token."
    assert "anyOf" not in TopKConfig.model_json_schema()["properties"]["k"]
