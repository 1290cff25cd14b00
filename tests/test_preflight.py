"""What is refused of a study before hours of work start, of what training needs."""

import json

import pytest

from sae_core import preflight
from sae_core.config import ModelConfig, StudyConfig
from sae_core.training import observers
from tests.tiny_training import BATCH_TOPK

MODEL = ModelConfig.model_validate(
    {
        "name": "m",
        "source": {"kind": "local", "path": "/m"},
        "corpus": {"source": {"kind": "local", "path": "/t"}, "n_tokens": 10_000, "held_out_fraction": 0.5},
        "hooks": ["a"],
    }
)


def study(**training):
    settings = {"n_steps": 100, "batch_size": 100, "warmup_steps": 30, "sparsity_warmup_steps": 0} | training
    return StudyConfig.model_validate(
        {
            "name": "s",
            "model": "m",
            "hook": "a",
            "variants": [json.loads(BATCH_TOPK.model_dump_json())],
            "seeds": [0, 1],
            "training": settings,
        }
    )


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"batch_size": 6000}, "study s: of corpus.n_tokens=10,000, 50% are held out .* 5,000 tokens, fewer than a"),
        (
            {"on_data_end": "stop", "data_fraction": 0.5},
            "data_fraction=0.5 of the rest is seen: .* 2,500 tokens are 25 steps of 100 when none is seen twice",
        ),
    ],
)
def test_a_corpus_that_is_too_small_is_refused_before_it_is_read(training, message):
    with pytest.raises(ValueError, match=message):
        preflight._check_training(study(**training), MODEL)


def test_what_fits_and_is_installed_passes(monkeypatch):
    preflight._check_training(study(on_data_end="stop"), MODEL)
    preflight._check_training(study(data_fraction=0.1), MODEL)
    monkeypatch.setattr(observers, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install sae-concord\[tensorboard\]"):
        preflight._check_training(study(watch=["tensorboard"]), MODEL)
