"""CPU time and peak memory of one training step: ours, ours by autograd, and the step of every peer that is installed.

    OMP_WAIT_POLICY=passive python -m benchmarks.training --repeats 7
    OMP_WAIT_POLICY=passive python -m benchmarks.training --dead 0.1 --repeats 5
    OMP_WAIT_POLICY=passive python -m benchmarks.training --sizes 768x4096 --architectures all \\
        --methods ours autograd dictionary_learning
    OMP_WAIT_POLICY=passive python -m benchmarks.training --sizes 768x16384 --memory

Methods take turns on one batch (A B A B ...), so that a shared machine slows all of them alike: the ratios of the
medians are the result. CPU time is that of all threads. Each method begins with the same weights, in the middle of a
training: warm-ups are over, running thresholds are kept. Architectures with ReLU codes get the bias that gives ``--l0``
codes a token. Dead features have short encoders, so they are not selected, and every library is told that they are
dead. Memory: the most that a process of its own held during three steps, beyond what it held before the SAE was made.

Data: sparse sums of as many random directions as the SAE has features.
"""

import argparse
import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import training_peers as peers
from sae_core import config as configs
from sae_core.architectures import Moment, TrainableSae, build
from sae_core.config import SaeConfig, TrainingConfig
from sae_core.training.gradients import choose_gradients
from sae_core.training.optimiser import ConstrainedAdam

CONFIG = TrainingConfig(n_steps=peers.N_STEPS)
METHODS = ("ours", "autograd", "dictionary_learning", "saelens", "saelens_dense", "sparsify")
SIZES = ("640x4096", "768x4096", "640x16384", "768x16384")
ARCHITECTURES = {
    "topk": "TopKConfig",
    "batch_topk": "BatchTopKConfig",
    "matryoshka_batch_topk": "MatryoshkaBatchTopKConfig",
    "jumprelu": "JumpReLUConfig",
    "gated": "GatedConfig",
    "standard": "StandardConfig",
    "standard_april": "StandardAprilConfig",
    "p_anneal": "PAnnealConfig",
}
SETTINGS: dict[str, Any] = {
    "l1_coefficient": 0.03,
    "p_end": 0.2,
    "anneal_start": 0.1,
    "group_fractions": [0.0625, 0.125, 0.25, 0.5625],
}
"""Of the fields that an architecture's config must be given."""


@dataclass(frozen=True)
class Task:
    """One SAE to be trained."""

    architecture: str
    d_in: int
    d_sae: int
    k: int
    batch: int
    n_dead: int
    l0: float

    def batch_of_data(self) -> torch.Tensor:
        """Sparse sums of random directions, unit mean squared norm."""
        generator = torch.Generator().manual_seed(0)
        directions = torch.nn.functional.normalize(torch.randn(self.d_sae, self.d_in, generator=generator), dim=1)
        index = torch.randint(0, self.d_sae, (self.batch, 40), generator=generator)
        weights = torch.rand(self.batch, 40, generator=generator)
        x = torch.nn.functional.embedding_bag(index, directions, per_sample_weights=weights, mode="sum")
        return x / x.pow(2).sum(1).mean().sqrt()

    def config(self) -> SaeConfig:
        """The variant."""
        kind: type[SaeConfig] = getattr(configs, ARCHITECTURES[self.architecture])
        fields = kind.model_fields
        values = {name: value for name, value in SETTINGS.items() if name in fields and fields[name].is_required()}
        for name, value in (("d_sae", self.d_sae), ("k", self.k), ("target_l0", self.l0)):
            values |= {name: value} if name in fields else {}
        if self.n_dead and "aux_k_coefficient" in fields:
            values["aux_k_coefficient"] = 1 / 32
        return kind(**values)

    def sae(self, x: torch.Tensor) -> TrainableSae:
        """Random, with so many dead features, and as sparse as the task says."""
        sae = build(self.config(), self.d_in, seed=0).requires_grad_(False)
        sae.W_enc[:, : self.n_dead] *= 0.2
        own = dict(sae.named_parameters())
        if not hasattr(sae, "k"):
            pre = x[:64] @ sae.W_enc
            cut = float(pre.flatten().kthvalue(pre.numel() - round(self.l0 * len(pre))).values)
            own.get("b_gate", sae.b_enc).fill_(-cut / 2 if "threshold" in own else -cut)
            if "threshold" in own:
                own["threshold"].fill_(cut / 2)
        if self.architecture == "p_anneal":
            sae.n_updated.fill_(4)
        return sae.requires_grad_(True)


def ours(task: Task, x: torch.Tensor, *, reference: bool) -> peers.Step:
    """A step as the training loop does it."""
    sae, counts = task.sae(x), torch.zeros(task.d_sae, dtype=torch.int64)
    gradients, adam = choose_gradients(sae, reference), ConstrainedAdam(sae, CONFIG.grad_clip)
    after = CONFIG.dead_after_tokens

    def step(x: torch.Tensor) -> float:
        counts[: task.n_dead] = after
        dead = counts >= after
        moment = Moment(peers.FIRST_STEP, peers.N_STEPS, 1.0, dead if bool(dead.any()) else None)
        numbers = gradients(x, moment)
        if numbers.values is not None:
            sae.observe(numbers.values, len(x), moment)
        adam.step(1e-5)
        counts.add_(len(x))
        counts[numbers.fired] = 0
        return numbers.l0

    return step


def make(method: str, task: Task, x: torch.Tensor) -> tuple[peers.Step, Callable[[], float | None]] | None:
    """The step of a method and what says its L0 (of ours after a step); None where it is not installed or lacks it."""
    if method in ("ours", "autograd"):
        l0: list[float] = []
        step = ours(task, x, reference=method == "autograd")

        def told(x: torch.Tensor) -> None:
            l0[:] = [step(x)]

        return told, lambda: l0[0]
    library = {"saelens": "sae_lens", "saelens_dense": "sae_lens"}.get(method, method)
    if importlib.util.find_spec(library) is None or (method != "dictionary_learning" and task.architecture != "topk"):
        return None
    if method == "dictionary_learning":
        theirs, l0_of = peers.dictionary_learning(task.config(), task.sae(x), task.n_dead)
        return theirs, partial(l0_of, x)
    if method == "sparsify":
        return peers.sparsify(task.sae(x), task.n_dead), lambda: None
    return peers.saelens(task.sae(x), task.n_dead, sparse=method == "saelens"), lambda: None


def compare(task: Task, methods: list[str], repeats: int) -> None:
    """Print medians of alternated runs; the first run of each, which compiles, is not counted."""
    x = task.batch_of_data()
    found = {method: made for method in methods if (made := make(method, task, x))}
    steps = {method: step for method, (step, _) in found.items()}
    wall: dict[str, list[float]] = {method: [] for method in steps}
    cpu: dict[str, list[float]] = {method: [] for method in steps}
    for step in steps.values():
        step(x)
    l0 = {method: l0_of() for method, (_, l0_of) in found.items()}
    for _ in range(repeats):
        for method, step in steps.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            step(x)
            wall[method].append(1e3 * (time.perf_counter() - start))
            cpu[method].append(1e3 * (time.process_time() - start_cpu))
    first = statistics.median(cpu[next(iter(steps))])
    for method in steps:
        median, sparsity = statistics.median(cpu[method]), l0[method]
        print(
            f"{_title(task)} {method:20} L0 {'' if sparsity is None else f'{sparsity:.1f}':>6}  CPU {median:7.0f} ms "
            f"(least {min(cpu[method]):7.0f})  wall {statistics.median(wall[method]):7.0f} ms  x {median / first:.2f}",
            flush=True,
        )


def _title(task: Task) -> str:
    return f"{task.architecture:21} {task.d_in}x{task.d_sae:<5} dead {task.n_dead:4}"


def measure_memory(task: Task, method: str) -> None:
    """Print the memory that three steps need, in MiB, in this process, which has done nothing before."""
    small = Task(task.architecture, 16, 64, min(task.k, 8), 32, min(task.n_dead, 6), 8.0)
    x = small.batch_of_data()
    if made := make(method, small, x):
        made[0](x)  # libraries and compiled code are loaded now
        x = task.batch_of_data()
        before = _reset_peak()
        made = make(method, task, x)
        assert made
        for _ in range(3):
            made[0](x)
        peak = _status("VmHWM") - before
        sae = task.sae(x)
        weights = sum(parameter.numel() for parameter in sae.parameters()) * 4 / 2**20
        codes = task.batch * (task.k if hasattr(sae, "k") else task.l0) * 8 / 2**20
        needed = 4 * weights + codes
        print(f"{_title(task)} {method:20} peak {peak:6.0f} MiB  x {peak / needed:.2f} of {needed:.0f} MiB", flush=True)


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def _reset_peak() -> float:
    """Forget the peak so far; returns what the process holds now, in MiB."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return _status("VmRSS")


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="d_in x d_sae")
    parser.add_argument("--architectures", nargs="+", default=["topk"], help=f"all, or {', '.join(ARCHITECTURES)}")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    for name, default in (("batch", 2048), ("k", 32), ("threads", 1), ("repeats", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--l0", type=float, default=64.0, help="codes a token where there is no k")
    parser.add_argument("--dead", type=float, default=0.0, help="share of features that count as dead")
    parser.add_argument("--memory", action="store_true", help="peak memory, each method in a process of its own")
    parser.add_argument("--in-this-process", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    architectures = list(ARCHITECTURES) if given.architectures == ["all"] else given.architectures
    for size in given.sizes:
        d_in, d_sae = (int(number) for number in size.split("x"))
        for architecture in architectures:
            task = Task(architecture, d_in, d_sae, given.k, given.batch, round(given.dead * d_sae), given.l0)
            if given.in_this_process:
                measure_memory(task, given.methods[0])
            elif given.memory:
                options = [f"--{name}={getattr(given, name)}" for name in ("batch", "k", "threads", "l0", "dead")]
                for method in given.methods:
                    one = ["--sizes", size, "--architectures", architecture, "--methods", method, "--in-this-process"]
                    subprocess.run([sys.executable, "-m", "benchmarks.training", *options, *one], check=True)
            else:
                compare(task, given.methods, given.repeats)


if __name__ == "__main__":
    main()
