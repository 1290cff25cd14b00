"""SAEs of a synthetic experiment: all seeds as a stack, beside one by one, and beside a stack of torch products.

    python -m benchmarks.synthetic [--threads 2] [--rounds 5]

Ten seeds, batches of 512 of the same samples. In alternation: our kernels (``train_stack``), the loop that trains SAEs
of language models, one seed after the other and together, and ``bmm``: the same ten SAEs as three-dimensional
parameters, gradients by autograd, torch's fused Adam. Milliseconds a step of all seeds, medians over rounds, wall and
CPU; then what a whole experiment takes: samples, training, measuring.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sae_core.architectures import build
from sae_core.config import StandardConfig, TopKConfig, TrainingConfig
from sae_core.synthetic.data import SyntheticData
from sae_core.synthetic.points import build_point
from sae_core.synthetic_config import (
    MeasuresConfig,
    PointConfig,
    RecipeConfig,
    SyntheticConfig,
    TwoPhaseZipfFrequency,
)
from sae_core.training import Job, train, train_together
from sae_core.training.stacks import StackSettings, train_stack

SEEDS = range(10)
BATCH, LR = 512, 1.5e-3
SIZES = {
    "topk 16 x 32, k 3": (SyntheticConfig(d_in=16, d_gt=32, k=3), TopKConfig(d_sae=32, k=3, aux_k_coefficient=0)),
    "standard 16 x 32": (SyntheticConfig(d_in=16, d_gt=32, k=3), StandardConfig(d_sae=32, l1_coefficient=0.1)),
    "topk 40 x 160, k 8": (SyntheticConfig(d_in=40, d_gt=80, k=8), TopKConfig(d_sae=160, k=8, aux_k_coefficient=0)),
}
Variant = TopKConfig | StandardConfig


def by_stack(variant: Variant, batches: Tensor) -> None:
    saes = [build(variant, batches.shape[2], seed) for seed in SEEDS]
    train_stack(saes, [batches], StackSettings(np.full(len(batches), LR)))


def _config(n_steps: int) -> TrainingConfig:
    return TrainingConfig(
        n_steps=n_steps,
        batch_size=BATCH,
        lr=LR,
        warmup_steps=0,
        decay_start=1,
        sparsity_warmup_steps=0,
        grad_clip=None,
        b_dec_init="zero",
        checkpoints=[],
    )


def one_by_one(variant: Variant, batches: Tensor) -> None:
    for seed in SEEDS:
        train(build(variant, batches.shape[2], seed), iter(batches), _config(len(batches)))


def together(variant: Variant, batches: Tensor) -> None:
    jobs = [Job(build(variant, batches.shape[2], seed)) for seed in SEEDS]
    train_together(jobs, iter(batches), _config(len(batches)))


def by_bmm(variant: Variant, batches: Tensor) -> None:
    """What stacking means in torch: one batched product for all seeds."""
    saes = [build(variant, batches.shape[2], seed) for seed in SEEDS]
    enc, dec, enc_bias, dec_bias = (
        torch.stack([getattr(sae, name).detach().clone() for sae in saes]).contiguous().requires_grad_(True)
        for name in ("W_enc", "W_dec", "b_enc", "b_dec")
    )
    adam = torch.optim.Adam([enc, dec, enc_bias, dec_bias], lr=LR, fused=True)
    for x in batches:
        adam.zero_grad(set_to_none=True)
        codes = torch.baddbmm(enc_bias[:, None], x - dec_bias[:, None], enc).relu()
        if isinstance(variant, TopKConfig):
            values, places = codes.topk(variant.k, dim=-1, sorted=False)
            codes = torch.zeros_like(codes).scatter(-1, places, values)
        error = torch.baddbmm(dec_bias[:, None], codes, dec) - x
        loss = error.pow(2).sum(-1).mean(1).sum()
        if isinstance(variant, StandardConfig):
            loss = loss + variant.l1_coefficient * codes.sum(-1).mean(1).sum()
        loss.backward()
        with torch.no_grad():
            assert dec.grad is not None
            dec.grad -= (dec.grad * dec).sum(-1, keepdim=True) * dec
            adam.step()
            dec /= dec.norm(dim=-1, keepdim=True)


WAYS: dict[str, tuple[Callable[[Variant, Tensor], None], int]] = {
    "stack": (by_stack, 200),
    "bmm": (by_bmm, 60),
    "together": (together, 40),
    "one by one": (one_by_one, 40),
}
"""Name, function, and the steps of a round."""


def compare(rounds: int) -> None:
    print(f"{'ms a step of ten seeds':24s}" + "".join(f"{name:>22s}" for name in WAYS))
    for title, (data_config, variant) in SIZES.items():
        data = SyntheticData(data_config)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
        for round_ in range(rounds + 1):
            for name, (way, n_steps) in WAYS.items():
                batches = data.draw(n_steps * BATCH, 0).x.reshape(n_steps, BATCH, -1)
                wall, cpu = time.perf_counter(), time.process_time()
                way(variant, batches)
                took = (time.perf_counter() - wall) / n_steps * 1e3, (time.process_time() - cpu) / n_steps * 1e3
                if round_:  # the first one compiles
                    found[name].append(took)
        medians = {name: [statistics.median(one) for one in zip(*took, strict=True)] for name, took in found.items()}
        print(f"{title:24s}" + "".join(f"{f'{wall:.2f} (CPU {cpu:.2f})':>22s}" for wall, cpu in medians.values()))
        first = medians["stack"]
        ratios = [f"{wall / first[0]:.1f} (CPU {cpu / first[1]:.1f})" for wall, cpu in medians.values()]
        print(f"{'  over the stack':24s}" + "".join(f"{ratio:>22s}" for ratio in ratios))


def whole(title: str, point: PointConfig) -> None:
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        found = build_point(Path(folder), point)
        took = f"{time.perf_counter() - wall:6.1f} s (CPU {time.process_time() - cpu:.1f})"
    print(f"{title:48s}{took}, of it training {found['training_seconds']:.1f} s; GT {found['gt_mcc']:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    compare(arguments.rounds)
    recipe = RecipeConfig(unit_decoder=False, unit_scale=False, mean_error=True, code_l1=0.01, n_samples=50_000)
    seeds = list(SEEDS)
    for title, (data, variant) in SIZES.items():
        recipe_of = recipe if isinstance(variant, TopKConfig) else RecipeConfig()
        point = PointConfig(
            data=data,
            variant=variant,
            recipe_name="benchmark",
            recipe=recipe_of,
            measures=MeasuresConfig(),
            seeds=seeds,
        )
        whole(f"{title}: ten seeds, 3,000 steps, all measures", point)
    data = SyntheticConfig(
        d_in=100, d_gt=5000, k=8, frequency=TwoPhaseZipfFrequency(kind="two_phase_zipf", break_rank=500)
    )
    measures = MeasuresConfig(consensus=False, n_null_draws=1)
    variant = TopKConfig(d_sae=1000, k=8, aux_k_coefficient=0)
    point = PointConfig(
        data=data, variant=variant, recipe_name="benchmark", recipe=recipe, measures=measures, seeds=seeds
    )
    whole("two-phase Zipf, 100 x 1000 of 5,000: the same", point)


if __name__ == "__main__":
    main()
