"""Without Dagster: two SAEs on data whose features are known, and how far they agree.

    .venv/bin/python examples/two_seeds.py

Under a minute on a laptop. Thirty-two random directions in sixteen dimensions; an activation is a sum of three of them.
PW-MCC compares the two SAEs with each other, GT-MCC one of them with the directions behind the data.
"""

from sae_core.architectures import build
from sae_core.config import TopKConfig, TrainingConfig
from sae_core.consistency import null_mcc, pw_mcc
from sae_core.matching import match
from sae_core.synthetic import SyntheticData
from sae_core.synthetic_config import SyntheticConfig
from sae_core.training import train


def main() -> None:
    """Train under two seeds and compare."""
    data = SyntheticData(SyntheticConfig(d_in=16, d_gt=32, k=3))
    config = TrainingConfig(n_steps=3000, batch_size=512, lr=3e-3, warmup_steps=100, sparsity_warmup_steps=0)
    variant = TopKConfig(d_sae=32, k=3)
    saes = [train(build(variant, 16, seed), data.batches(config.batch_size, seed=0), config).sae for seed in (0, 1)]
    print(f"PW-MCC of the two SAEs  {pw_mcc([sae.W_dec for sae in saes]):.3f}")
    print(f"GT-MCC of the first     {match(saes[0].W_dec, data.dictionary).mcc:.3f}")
    print(f"two random dictionaries {null_mcc(32, 16):.3f}")


if __name__ == "__main__":
    main()
