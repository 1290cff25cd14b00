"""Small training runs of every architecture: settings, planted activations, shards of them."""

import numpy as np
import torch

from sae_core.architectures import build
from sae_core.config import (
    BatchTopKConfig,
    GatedConfig,
    JumpReLUConfig,
    MatryoshkaBatchTopKConfig,
    PAnnealConfig,
    RunSeeds,
    StandardAprilConfig,
    StandardConfig,
    TopKConfig,
    TrainingConfig,
)
from sae_core.shards import ShardData, write_shards
from sae_core.training import train

D_IN, D_SAE, BATCH = 16, 40, 128
TOPK, STANDARD = TopKConfig(d_sae=D_SAE, k=4), StandardConfig(d_sae=D_SAE, l1_coefficient=0.02)
BATCH_TOPK = BatchTopKConfig(d_sae=D_SAE, k=4, threshold_start_steps=2)
JUMPRELU = JumpReLUConfig(d_sae=D_SAE, target_l0=4, bandwidth=0.05)
P_ANNEAL = PAnnealConfig(d_sae=D_SAE, l1_coefficient=0.02, n_updates=3, n_recent=2)
VARIANTS = [
    TOPK,
    STANDARD,
    StandardAprilConfig(d_sae=D_SAE, l1_coefficient=0.02),
    BATCH_TOPK,
    MatryoshkaBatchTopKConfig(d_sae=D_SAE, k=4, group_fractions=[0.25, 0.75], threshold_start_steps=2),
    JUMPRELU,
    GatedConfig(d_sae=D_SAE, l1_coefficient=0.02),
    P_ANNEAL,
]
"""Every architecture."""
SEEDS = RunSeeds(init_seed=0, order_seed=0)


def config(n_steps=30, **changes):
    settings = {"batch_size": BATCH, "lr": 3e-3, "warmup_steps": 5, "sparsity_warmup_steps": 10, "log_every": 10}
    settings |= {"dead_after_tokens": 4 * BATCH, "device": "cpu", "resume_minutes": 60, "checkpoints": []}
    return TrainingConfig(n_steps=n_steps, **settings | changes)


def activations(n, seed=0):
    """Sparse sums of 24 directions, about unit mean squared norm."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(24, D_IN, generator=torch.Generator().manual_seed(1)), dim=1)
    codes = torch.rand(n, 24, generator=generator) * (torch.rand(n, 24, generator=generator) < 0.1)
    x = codes @ directions + 0.3
    return x / x.pow(2).sum(1).mean().sqrt()


def batches(start=0):
    step = start
    while True:
        yield activations(BATCH, seed=step)
        step += 1


def train_new(variant, settings, **arguments):
    return train(build(variant, D_IN, 0), batches, settings, **arguments)


def weights(sae):
    return {name: tensor.clone() for name, tensor in sae.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def planted_shards(folder, n_shards=2, n_batches=2):
    """Shards of ``n_batches`` batches each, 8 tokens a context."""
    made = []
    for shard in range(n_shards):
        n = n_batches * BATCH
        ids = np.arange(shard * n, (shard + 1) * n)
        x = 5 * activations(n, seed=1000 + shard)
        made.append(ShardData(x, (ids % 7).astype(np.int32), (ids // 8).astype(np.int64), (ids % 8).astype(np.int32)))
    return write_shards(folder, made, "float16")


def contents(folder):
    """Bytes of all files that are content."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name[0] != "_")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
