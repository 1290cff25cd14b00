"""Small random SAEs of every kind, and changes to their files."""

import json

import torch
from safetensors.torch import load_file, save_file

from sae_core.architectures import Conventions, build, create
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

D_IN, D_SAE, D_OUT = 8, 24, 6
VARIANTS = [TopKConfig(d_sae=D_SAE, k=3), StandardConfig(d_sae=D_SAE, l1_coefficient=0.1)]
TRAINED = [
    *VARIANTS,
    StandardAprilConfig(d_sae=D_SAE, l1_coefficient=0.1),
    BatchTopKConfig(d_sae=D_SAE, k=3, threshold_start_steps=2),
    MatryoshkaBatchTopKConfig(d_sae=D_SAE, k=3, group_fractions=[0.25, 0.25, 0.5], threshold_start_steps=2),
    JumpReLUConfig(d_sae=D_SAE, target_l0=3),
    GatedConfig(d_sae=D_SAE, l1_coefficient=0.1),
    PAnnealConfig(d_sae=D_SAE, l1_coefficient=0.1, n_updates=5, n_recent=3),
]
"""Every architecture, as it is trained."""
NORMALIZED = [Conventions(normalize=name) for name in ("constant_norm_rescale", "layer_norm")]
TRANSCODER = Conventions(d_out=D_OUT, is_transcoder=True, subtract_b_dec=False)
SKIP = Conventions(d_out=D_OUT, is_transcoder=True, has_skip=True, subtract_b_dec=False)
KINDS = [
    *((name, conventions) for name in ("topk", "standard", "jumprelu", "gated") for conventions in
      (Conventions(), Conventions(subtract_b_dec=False), *NORMALIZED)),
    *((name, conventions) for name in ("standard", "jumprelu") for conventions in (TRANSCODER, SKIP)),
]  # fmt: skip


def hand_made(sae):
    """Features along the axes (1, 0), (0, 1), (-1, 0), read and written with unit weights."""
    directions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    sae.W_dec.data.copy_(directions)
    sae.W_enc.data.copy_(directions.T)
    return sae


def filled(sae):
    """The same SAE with random parameters; thresholds positive, also a running one."""
    for seed, (name, parameter) in enumerate(sae.requires_grad_(False).named_parameters()):
        parameter.normal_(generator=torch.Generator().manual_seed(seed))
        if name == "threshold":
            parameter.abs_()
    if "threshold" in dict(sae.named_buffers()):
        sae.threshold.fill_(0.7)
    return sae


def random_sae(variant):
    return filled(build(variant, d_in=D_IN, seed=0))


def sae_of(architecture, conventions):
    settings = {"k": 3} if architecture == "topk" else {}
    return filled(create(architecture, D_IN, D_SAE, conventions=conventions, **settings))


def edit(folder, **changes):
    """Change keys of ``cfg.json``; ``...`` takes one away."""
    config = json.loads((folder / "cfg.json").read_text())
    config.update(changes)
    (folder / "cfg.json").write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def edit_weights(folder, **changes):
    path = folder / "sae_weights.safetensors"
    weights = {**load_file(path), **changes}
    save_file({name: tensor for name, tensor in weights.items() if tensor is not ...}, path)
