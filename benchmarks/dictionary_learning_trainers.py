"""The trainers of dictionary_learning with the settings of our variants, and weights in and out of their SAEs.

Needs torch and dictionary_learning alone, so that it runs in an environment where this package is not installed.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

NAMES = {
    "encoder.weight": "W_enc",
    "decoder.weight": "W_dec",
    "encoder.bias": "b_enc",
    "bias": "b_dec",
    "decoder_bias": "b_dec",
    "gate_bias": "b_gate",
    "mag_bias": "b_mag",
}
"""Their parameters by our names; others are called the same."""
L1 = {"l1_penalty": "l1_coefficient"}
SELECTING = {"k": "k", "auxk_alpha": "aux_k_coefficient"}
BATCH = SELECTING | {"threshold_beta": "threshold_beta"}
TRAINERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "standard": ("standard", "StandardTrainer", L1),
    "standard_april": ("standard", "StandardTrainerAprilUpdate", L1),
    "topk": ("top_k", "TopKTrainer", SELECTING),
    "batch_topk": ("batch_top_k", "BatchTopKTrainer", BATCH),
    "matryoshka_batch_topk": (
        "matryoshka_batch_top_k",
        "MatryoshkaBatchTopKTrainer",
        BATCH | {"group_fractions": "group_fractions", "group_weights": "group_weights"},
    ),
    "jumprelu": (
        "jumprelu",
        "JumpReluTrainer",
        {"target_l0": "target_l0", "bandwidth": "bandwidth", "sparsity_penalty": "sparsity_coefficient"},
    ),
    "gated": ("gdm", "GatedSAETrainer", L1),
    "p_anneal": (
        "p_anneal",
        "PAnnealTrainer",
        {
            "initial_sparsity_penalty": "l1_coefficient",
            "p_end": "p_end",
            "n_sparsity_updates": "n_updates",
            "sparsity_queue_length": "n_recent",
        },
    ),
}
"""By architecture: module, class, and their arguments by the fields of our config."""
CLIPPED = ("standard_april", "topk", "batch_topk", "jumprelu", "matryoshka_batch_topk")
"""Architectures whose trainer clips the norm of the gradient, at 1."""
CENTRED = ("topk", "batch_topk", "matryoshka_batch_topk")
"""Architectures whose trainer starts b_dec from the geometric median of the first batch; the others start from zero."""


def make_trainer(
    variant: Mapping[str, Any],
    d_in: int,
    n_steps: int,
    *,
    lr: float,
    warmup_steps: int = 0,
    sparsity_warmup_steps: int | None = None,
    decay_start: int | None = None,
    dead_after_tokens: int = 10_000_000,
    seed: int = 0,
) -> Any:
    """The trainer of an architecture.

    Args:
        variant: a variant as ``config.model_dump()`` gives it.
        n_steps: of the whole training: schedules, and the steps at which p falls, depend on it.
        warmup_steps: of the learning rate; theirs is zero in the first step, ours a step's share.
        sparsity_warmup_steps: None is none.
        decay_start: step from which the learning rate falls; None is never.
        dead_after_tokens: for the auxiliary loss; a fixed 10 million there.
        seed: of their own initial weights.
    """
    name = variant["architecture"]
    if name not in TRAINERS:
        raise ValueError(f"dictionary_learning has no trainer for {name!r}; it has {', '.join(TRAINERS)}")
    module, kind, fields = TRAINERS[name]
    settings: dict[str, Any] = {
        "steps": n_steps, "activation_dim": d_in, "dict_size": variant["d_sae"], "layer": 0, "lm_name": "",
        "lr": lr, "warmup_steps": warmup_steps, "decay_start": decay_start, "seed": seed, "device": "cpu",
    }  # fmt: skip
    settings |= {theirs: variant[ours] for theirs, ours in fields.items()}
    if "topk" not in name:
        settings["sparsity_warmup_steps"] = sparsity_warmup_steps
    if name.endswith("batch_topk"):
        # Theirs knows no rule for short trainings, in which it would never start.
        settings["threshold_start_step"] = min(variant["threshold_start_steps"], n_steps // 2)
    if name == "p_anneal":
        settings |= {"sparsity_function": "Lp^p", "anneal_start": int(variant["anneal_start"] * n_steps)}
    trainer = getattr(import_module(f"dictionary_learning.trainers.{module}"), kind)(**settings)
    trainer.dead_feature_threshold = dead_after_tokens
    return trainer


def weights_of(sae: Any) -> dict[str, Tensor]:
    """Copies of its parameters by our names, in our shapes."""
    return {
        NAMES.get(name, name): (value.T if name.endswith(".weight") else value).detach().clone()
        for name, value in sae.named_parameters()
    }


@torch.no_grad()
def set_weights(sae: Any, weights: Mapping[str, Tensor]) -> None:
    """Copy ours into theirs."""
    for name, parameter in sae.named_parameters():
        value = weights[NAMES.get(name, name)]
        parameter.copy_(value.T if name.endswith(".weight") else value)
