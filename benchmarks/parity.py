"""Trained SAEs of every architecture, ours beside dictionary_learning's, seed by seed on the same batches.

    OMP_WAIT_POLICY=passive nice python -m benchmarks.parity --out parity.json --data <train shards> <held-out shards>

A seed is that of the initial weights, which both libraries start from (``--start own``: dictionary_learning keeps its
own); the batches and their order are the same for all. Warm-up, decay, clipping and the first b_dec are those of its
trainer in both. Measured on held-out tokens, each library as it is used: FVE, L0 and the share of features that never
fire. Every run is kept in ``--out``; a script that was killed goes on after the last one.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.dictionary_learning_trainers import CENTRED, CLIPPED, make_trainer, set_weights
from sae_core.architectures import build
from sae_core.config import (
    BatchTopKConfig,
    GatedConfig,
    JumpReLUConfig,
    MatryoshkaBatchTopKConfig,
    PAnnealConfig,
    SaeConfig,
    StandardAprilConfig,
    StandardConfig,
    TopKConfig,
    TrainingConfig,
)
from sae_core.shards import open_shards
from sae_core.training import train

Batches = Callable[[int], Iterator[torch.Tensor]]
MEASURES = ("fve", "l0", "dead")


def variants(d_sae: int, k: int, l1: float) -> list[SaeConfig]:
    """One variant of each architecture."""
    return [
        StandardConfig(d_sae=d_sae, l1_coefficient=l1),
        StandardAprilConfig(d_sae=d_sae, l1_coefficient=l1),
        TopKConfig(d_sae=d_sae, k=k),
        BatchTopKConfig(d_sae=d_sae, k=k),
        MatryoshkaBatchTopKConfig(d_sae=d_sae, k=k),
        JumpReLUConfig(d_sae=d_sae, target_l0=k),
        GatedConfig(d_sae=d_sae, l1_coefficient=l1),
        PAnnealConfig(d_sae=d_sae, l1_coefficient=l1),
    ]


def load(given: argparse.Namespace) -> tuple[Batches, torch.Tensor]:
    """Batches of unit mean squared norm from any one on, and held-out tokens on the same scale."""
    if given.data is None:
        x = sparse_sums(given.steps * given.batch + given.held_out, given.d_in, given.d_sae, given.k)
        return _from_rows(x, given)
    paths = [Path(path) for path in given.data]
    if paths[0].suffix == ".npy":
        return _from_rows(torch.from_numpy(np.load(paths[0]).astype(np.float32)), given)
    if len(paths) != 2:
        raise ValueError(f"shards need two folders, those trained on and those held out: got {given.data}")
    shards, others = (open_shards(path) for path in paths)
    scale = shards.mean_squared_norm**-0.5
    held_out = torch.cat([rows.activations for rows in others.in_order(4096)])[: given.held_out]

    def batches(start: int) -> Iterator[torch.Tensor]:
        return (scale * x for x in shards.batches(given.batch, 0, start))

    return batches, scale * held_out.float()


def sparse_sums(n: int, d_in: int, n_directions: int, n_active: int) -> torch.Tensor:
    """Sums of random directions with weights between 0.5 and 1.5."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(n_directions, d_in, generator=generator), dim=1)
    index = torch.randint(0, n_directions, (n, n_active), generator=generator)
    weights = 0.5 + torch.rand(n, n_active, generator=generator)
    return torch.nn.functional.embedding_bag(index, directions, per_sample_weights=weights, mode="sum")


def _from_rows(x: torch.Tensor, given: argparse.Namespace) -> tuple[Batches, torch.Tensor]:
    """Batches in stored order, again from the front when they are through; the last rows are held out."""
    n = (len(x) - given.held_out) // given.batch
    if n < 1:
        raise ValueError(f"{len(x)} rows are too few for a batch of {given.batch} and {given.held_out} held out")
    x = x / x.pow(2).sum(1).mean().sqrt()

    def batches(start: int) -> Iterator[torch.Tensor]:
        for step in range(start, given.steps):
            first = step % n * given.batch
            yield x[first : first + given.batch]

    return batches, x[len(x) - given.held_out :]


def schedule(given: argparse.Namespace) -> dict[str, int]:
    """Steps of both warm-ups, and where the decay starts."""
    warmup_steps = int(given.warmup * given.steps)
    decay_start = int(0.8 * given.steps)
    return {"warmup_steps": warmup_steps, "sparsity_warmup_steps": 2 * warmup_steps, "decay_start": decay_start}


def ours(variant: SaeConfig, seed: int, batches: Batches, held_out: torch.Tensor, given: argparse.Namespace) -> Any:
    """Train with our loop, on the path that it chooses."""
    name, when = variant.architecture, schedule(given)  # type: ignore[attr-defined]
    config = TrainingConfig(
        n_steps=given.steps,
        batch_size=given.batch,
        lr=given.lr,
        warmup_steps=when["warmup_steps"],
        sparsity_warmup_steps=when["sparsity_warmup_steps"],
        decay_start=when["decay_start"] / given.steps,
        grad_clip=1.0 if name in CLIPPED else None,
        b_dec_init="geometric_median" if name in CENTRED else "zero",
        dead_after_tokens=given.dead_after,
        device="cpu",
    )
    sae = train(build(variant, held_out.shape[1], seed), batches, config, seed=seed).sae.finished()
    return measure(sae.encode(held_out), sae(held_out), held_out)


def theirs(variant: SaeConfig, seed: int, batches: Batches, held_out: torch.Tensor, given: argparse.Namespace) -> Any:
    """Train with their trainer."""
    d_in, settings = held_out.shape[1], variant.model_dump()
    when = {"dead_after_tokens": given.dead_after, "seed": seed, **schedule(given)}
    trainer = make_trainer(settings, d_in, given.steps, lr=given.lr, **when)
    if given.start == "ours":
        set_weights(trainer.ae, dict(build(variant, d_in, seed).named_parameters()))
    for step, x in zip(range(given.steps), batches(0), strict=False):
        trainer.update(step, x)
    codes = trainer.ae.encode(held_out)
    return measure(codes, trainer.ae.decode(codes), held_out)


@torch.no_grad()
def measure(codes: torch.Tensor, x_hat: torch.Tensor, x: torch.Tensor) -> dict[str, float]:
    """Fraction of variance explained, active features on a token, and share of features that never fire."""
    missed, varied = (x - x_hat).pow(2).sum(), (x - x.mean(0)).pow(2).sum()
    fired = codes > 0
    return {
        "fve": float(1 - missed / varied),
        "l0": float(fired.sum()) / len(x),
        "dead": float((~fired.any(0)).float().mean()),
    }


def run_all(given: argparse.Namespace) -> dict[str, Any]:
    """All runs that are not in the file yet; what the file then holds."""
    path = Path(given.out)
    decisive = ("data", "steps", "batch", "d_sae", "d_in", "k", "l1", "lr", "warmup", "start", "dead_after", "held_out")
    settings = {name: getattr(given, name) for name in decisive}
    kept = json.loads(path.read_text()) if path.exists() else {"settings": settings, "runs": {}}
    if kept["settings"] != settings:
        raise ValueError(f"{path} holds runs with other settings, {kept['settings']}; give --out another name")
    batches, held_out = load(given)
    chosen = [v for v in variants(given.d_sae, given.k, given.l1) if not given.only or v.architecture in given.only]
    for variant in chosen:
        for seed in range(given.seeds):
            for library, train_one in (("ours", ours), ("theirs", theirs)):
                key = f"{variant.architecture}/{seed}/{library}"
                if key in kept["runs"]:
                    continue
                start = time.perf_counter()
                numbers = train_one(variant, seed, batches, held_out, given)
                kept["runs"][key] = numbers | {"seconds": round(time.perf_counter() - start, 1)}
                part = path.with_suffix(".part")
                part.write_text(json.dumps(kept, indent=1))
                part.replace(path)
                print(key, kept["runs"][key], flush=True)
    return kept


def table(kept: dict[str, Any]) -> str:
    """Mean and standard deviation over seeds; ``within``: the means differ by no more than the larger deviation."""
    lines = ["| architecture | measure | ours | dictionary_learning | difference | within |", "|-|-|-|-|-|-|"]
    names = dict.fromkeys(key.split("/")[0] for key in kept["runs"])
    for name in names:
        for measure_name in MEASURES:
            values = {
                library: [run[measure_name] for key, run in kept["runs"].items() if key.endswith(library)
                          and key.startswith(name + "/")]
                for library in ("ours", "theirs")
            }  # fmt: skip
            if min(map(len, values.values())) < 2:
                continue
            (mean, spread), (other, other_spread) = ((statistics.mean(v), statistics.stdev(v)) for v in values.values())
            digits = 2 if measure_name == "l0" else 4
            verdict = "yes" if abs(mean - other) <= max(spread, other_spread) else "no"
            lines.append(
                f"| {name} | {measure_name} | {mean:.{digits}f} ± {spread:.{digits}f} | "
                f"{other:.{digits}f} ± {other_spread:.{digits}f} | {mean - other:+.{digits}f} | {verdict} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Run what the arguments ask for, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="JSON file that keeps every run")
    parser.add_argument("--data", nargs="+", help="an .npy file (n, d_in), or two folders of shards; default synthetic")
    parser.add_argument("--only", nargs="*", default=[], help="architectures; default all")
    parser.add_argument(
        "--start", choices=["ours", "own"], default="ours", help="initial weights of dictionary_learning"
    )
    parser.add_argument("--seeds", type=int, default=3)
    for name, default in (("steps", 600), ("batch", 1024), ("d-sae", 512), ("d-in", 64), ("k", 32), ("held-out", 16384),
                          ("dead-after", 100_000)):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--l1", type=float, default=0.04, help="of the architectures with a penalty")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument(
        "--warmup",
        type=float,
        default=0.1,
        help="share of the steps in which the learning rate rises, twice as many for the penalty; with 0 both "
        "libraries do the same arithmetic, otherwise ours is a step ahead",
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(table(run_all(given)))


if __name__ == "__main__":
    main()
