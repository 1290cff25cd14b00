"""The first steps of every architecture are those of dictionary_learning's trainers, from equal weights."""

import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks.dictionary_learning_trainers import CENTRED, CLIPPED
from sae_core.architectures import Moment, build
from sae_core.config import (
    BatchTopKConfig,
    GatedConfig,
    JumpReLUConfig,
    MatryoshkaBatchTopKConfig,
    PAnnealConfig,
    StandardAprilConfig,
    StandardConfig,
    TopKConfig,
)
from sae_core.training.gradients import choose_gradients
from sae_core.training.initial_values import geometric_median
from sae_core.training.optimiser import ConstrainedAdam

ROOT = Path(__file__).resolve().parent.parent
D_IN, D_SAE, BATCH, N_STEPS, LR = 16, 64, 128, 12, 1e-3
DEAD_AFTER = 3 * BATCH
TOLERANCE = 2e-6
"""Rounding of float32 in weights of size one, several times over. A wrong term shows as 1e-4 or more: LR is 1e-3, and
Adam's steps have that size whatever the size of the gradient. For the same reason an element whose gradient is all
rounding would move by LR in one library and not in the other; with these sizes and seeds there is none."""
VARIANTS = [
    StandardConfig(d_sae=D_SAE, l1_coefficient=0.1),
    StandardAprilConfig(d_sae=D_SAE, l1_coefficient=0.1),
    TopKConfig(d_sae=D_SAE, k=4, aux_k_coefficient=0.25),
    BatchTopKConfig(d_sae=D_SAE, k=4, aux_k_coefficient=0.25, threshold_start_steps=3),
    MatryoshkaBatchTopKConfig(d_sae=D_SAE, k=4, aux_k_coefficient=0.25, group_fractions=[0.125, 0.25, 0.625]),
    MatryoshkaBatchTopKConfig(d_sae=D_SAE, k=4, group_fractions=[0.25, 0.75], group_weights=[2.0, 0.5]),
    # A wide window: within a dozen steps some values must fall into it.
    JumpReLUConfig(d_sae=D_SAE, target_l0=5, bandwidth=0.05),
    GatedConfig(d_sae=D_SAE, l1_coefficient=0.1),
    # p falls in steps 5 and 8 of 12, after three batches each.
    PAnnealConfig(d_sae=D_SAE, l1_coefficient=0.1, anneal_start=2 / N_STEPS, n_updates=4, n_recent=3),
]
THEIR_NAMES = {"threshold": "threshold", "p": "p", "penalty": "sparsity_coeff"}
"""What changes besides the weights."""


def started(variant):
    """An SAE with biases and thresholds where they matter, and six features whose codes are too small to be chosen."""
    sae = build(variant, D_IN, seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in sae.named_parameters():
        if name in ("b_enc", "b_dec", "b_gate", "b_mag", "r_mag"):
            parameter.data.normal_(0, 0.05, generator=generator)
        if name == "threshold":
            parameter.data.uniform_(0.05, 0.2, generator=generator)
    sae.W_enc.data[:, :6] *= 0.05
    return sae


def batches():
    x = torch.randn(N_STEPS, BATCH, D_IN, generator=torch.Generator().manual_seed(2)) + 0.3
    return x / x.pow(2).sum(-1).mean().sqrt()


@pytest.fixture(scope="module")
def theirs(tmp_path_factory, dictionary_learning_python):
    """What their trainers make of our weights, step by step."""
    folder = tmp_path_factory.mktemp("parity")
    jobs = {
        variant.key: {
            "variant": variant.model_dump(),
            "weights": {name: parameter.detach() for name, parameter in started(variant).named_parameters()},
            "batches": batches(),
            "lr": LR,
            "dead_after_tokens": DEAD_AFTER,
        }
        for variant in VARIANTS
    }
    torch.save(jobs, folder / "jobs.pt")
    command = [dictionary_learning_python, "-W", "ignore", "-m", "tests.peer_training"]
    subprocess.run([*command, str(folder / "jobs.pt"), str(folder / "results.pt")], cwd=ROOT, check=True)
    return torch.load(folder / "results.pt")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("reference", [True, False], ids=["autograd", "as_chosen"])
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.key)
def test_every_step_moves_the_weights_as_theirs_does(theirs, variant, reference):
    result, sae = theirs[variant.key], started(variant)
    if variant.architecture in CENTRED:
        # Their iteration stops after a step shorter than 1e-5.
        assert torch.allclose(geometric_median(batches()[0]), result["steps"][0]["b_dec"], atol=1e-4)
        sae.b_dec.data.copy_(result["steps"][0]["b_dec"])
    compute = choose_gradients(sae, reference)
    adam = ConstrainedAdam(sae, 1.0 if variant.architecture in CLIPPED else None)
    for step, x in enumerate(batches()):
        # For them a feature is dead counting the tokens of this very step, for us those before it.
        dead = result["dead"][step]
        moment = Moment(step, N_STEPS, dead=dead if dead.any() else None)
        numbers = compute(x, moment)
        if sae.observes:
            sae.observe(numbers.values, len(x), moment)
        adam.step(LR)
        for name, parameter in sae.named_parameters():
            difference = float((parameter.detach() - result["steps"][step + 1][name]).abs().max())
            assert difference < TOLERANCE, f"{name} after step {step}"
    watched = {
        THEIR_NAMES[name]: value for name, value in sae.watched().items() if name in THEIR_NAMES and sae.observes
    }
    assert watched == pytest.approx({name: result["watched"][name] for name in watched}, rel=1e-5)
    assert bool(watched) == sae.observes


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_inputs_reach_what_is_special(theirs):
    dead = {key: int(result["dead"][-1].sum()) for key, result in theirs.items()}
    assert all(dead[variant.key] >= 6 for variant in VARIANTS if variant.architecture in CENTRED)
    watched = theirs[next(variant.key for variant in VARIANTS if variant.architecture == "p_anneal")]["watched"]
    assert watched["p"] == pytest.approx(1 - 0.8 * 2 / 3)
