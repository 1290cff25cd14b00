"""Milliseconds of one training step: ours sparse, ours by autograd, and dictionary_learning where it is installed.

    OMP_WAIT_POLICY=passive python benchmarks/training.py --d-in 576 --d-sae 2048 --threads 2

Methods take turns (A B A B ...), so that a shared machine slows all of them alike: the ratios are the result. Wall
and CPU time (of all threads), medians. Data: sparse sums of as many random directions as the SAE has features.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from sae_core.architectures import Moment, build
from sae_core.config import SaeConfig, StandardConfig, TopKConfig
from sae_core.training.gradients import choose_gradients
from sae_core.training.optimiser import ConstrainedAdam

Step = Callable[[torch.Tensor], float]


def synthetic(n: int, d_in: int, n_directions: int, n_active: int = 40) -> torch.Tensor:
    """Sparse sums of random directions, unit mean squared norm."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(n_directions, d_in, generator=generator), dim=1)
    index = torch.randint(0, n_directions, (n, n_active), generator=generator)
    weights = torch.rand(n, n_active, generator=generator)
    x = torch.nn.functional.embedding_bag(index, directions, per_sample_weights=weights, mode="sum")
    return x / x.pow(2).sum(1).mean().sqrt()


def ours(variant: SaeConfig, d_in: int, *, reference: bool, bias: float, n_dead: int) -> Step:
    """A step of our loop; ``bias`` brings a ReLU SAE to the sparsity it has after its warm-up."""
    sae = build(variant, d_in, seed=0)
    sae.b_enc.data.fill_(bias)
    gradients, adam = choose_gradients(sae, reference), ConstrainedAdam(sae, 1.0)
    dead = torch.arange(variant.d_sae) < n_dead if n_dead else None

    def step(x: torch.Tensor) -> float:
        numbers = gradients(x, Moment(dead=dead))
        adam.step(1e-5)
        return numbers.l0

    return step


def dictionary_learning(d_in: int, variant: TopKConfig) -> Step | None:
    """A step of dictionary_learning's TopK trainer; None where it is not installed."""
    try:
        from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer
    except ImportError:
        return None
    trainer = TopKTrainer(
        steps=10_000, activation_dim=d_in, dict_size=variant.d_sae, k=variant.k, layer=0, lm_name="",
        dict_class=AutoEncoderTopK, lr=1e-5, warmup_steps=1, decay_start=None, seed=0, device="cpu",
    )  # fmt: skip
    count = iter(range(10_000))

    def step(x: torch.Tensor) -> float:
        trainer.update(next(count), x)
        return float(variant.k)

    return step


def compare(name: str, steps: dict[str, Step], x: torch.Tensor, repeats: int) -> None:
    """Print medians of alternated runs; the first run of each, which compiles, is not counted."""
    wall: dict[str, list[float]] = {method: [] for method in steps}
    cpu: dict[str, list[float]] = {method: [] for method in steps}
    l0 = {method: step(x) for method, step in steps.items()}
    for _ in range(repeats):
        for method, step in steps.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            l0[method] = step(x)
            wall[method].append(1e3 * (time.perf_counter() - start))
            cpu[method].append(1e3 * (time.process_time() - start_cpu))
    first = statistics.median(cpu[next(iter(steps))])
    for method in steps:
        median = statistics.median(cpu[method])
        print(
            f"{name:10} {method:20} L0 {l0[method]:6.1f}  wall {statistics.median(wall[method]):7.1f} ms "
            f"(best {min(wall[method]):7.1f})  CPU {median:7.1f} ms  x {median / first:.2f}"
        )


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("d-in", 576), ("d-sae", 2048), ("batch", 2048), ("k", 32), ("threads", 2), ("repeats", 9)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dead", type=int, default=0, help="features that count as dead, for the auxiliary loss")
    parser.add_argument("--bias", type=float, default=-0.07, help="encoder bias of the Standard SAE, sets its L0")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    x = synthetic(given.batch, given.d_in, given.d_sae)
    topk, standard = TopKConfig(d_sae=given.d_sae, k=given.k), StandardConfig(d_sae=given.d_sae, l1_coefficient=0.03)
    for variant, bias in ((topk, 0.0), (standard, given.bias)):
        steps = {
            name: ours(variant, given.d_in, reference=name == "autograd", bias=bias, n_dead=given.dead)
            for name in ("sparse", "autograd")
        }
        peer = dictionary_learning(given.d_in, variant) if isinstance(variant, TopKConfig) else None
        if peer:
            steps["dictionary_learning"] = peer
        compare(variant.architecture, steps, x, given.repeats)


if __name__ == "__main__":
    main()
