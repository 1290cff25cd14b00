"""Without Dagster: two SAEs on data whose features are known, and how far they agree.

    .venv/bin/python examples/two_seeds.py

Under a minute on a laptop. Thirty-two random directions in sixteen dimensions; an activation is a sum of three of them.
PW-MCC compares the two SAEs with each other, GT-MCC one of them with the directions behind the data.
"""

import torch

from sae_core.architectures import build
from sae_core.config import TopKConfig, TrainingConfig
from sae_core.consistency import null_mcc, pw_mcc
from sae_core.matching import match
from sae_core.training import train

D_IN, N_FEATURES, ACTIVE = 16, 32, 3


def activations(n: int, seed: int) -> torch.Tensor:
    """Sums of three random features with half-normal weights: (n, D_IN)."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n, N_FEATURES, generator=generator).abs()
    chosen = torch.rand(n, N_FEATURES, generator=generator).topk(ACTIVE).indices
    return torch.zeros(n, N_FEATURES).scatter(1, chosen, weight.gather(1, chosen)) @ DIRECTIONS


DIRECTIONS = torch.nn.functional.normalize(torch.randn(N_FEATURES, D_IN, generator=torch.Generator().manual_seed(0)))


def main() -> None:
    """Train under two seeds and compare."""
    config = TrainingConfig(n_steps=3000, batch_size=512, lr=3e-3, warmup_steps=100, sparsity_warmup_steps=0)
    variant = TopKConfig(d_sae=N_FEATURES, k=ACTIVE)
    saes = []
    for seed in (0, 1):
        batches = (activations(config.batch_size, 1000 + step) for step in range(config.n_steps))
        saes.append(train(build(variant, D_IN, seed), batches, config).sae)
    print(f"PW-MCC of the two SAEs  {pw_mcc([sae.W_dec for sae in saes]):.3f}")
    print(f"GT-MCC of the first     {match(saes[0].W_dec, DIRECTIONS).mcc:.3f}")
    print(f"two random dictionaries {null_mcc(N_FEATURES, D_IN):.3f}")


if __name__ == "__main__":
    main()
