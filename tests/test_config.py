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
    assert (both.init_seed, both.order_seed) == (7, 7)
    assert (init.init_seed, init.order_seed) == (7, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sede": 1}, "sede\n  Extra inputs are not permitted"),
        ({"training": TRAINING | {"n_step": 1}}, "training.n_step\n  Extra inputs are not permitted"),
        ({"training": TRAINING | {"lr": "fast"}}, "training.lr\n  Input should be a valid number"),
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
            "does not match any of the expected tags: 'topk', 'standard'",
        ),
        ({"variants": [{"architecture": "standard", "d_sae": 16, "l1_coefficient": 0}]}, "greater than 0"),
        ({"vary": []}, "vary must name what a seed changes"),
        ({"vary": ["weather"]}, "Input should be 'init' or 'order'"),
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
