"""The SAEs of a point: trained on synthetic samples, all seeds at once. Part of the *synthetic* stage."""

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.architectures import Sae, TrainableSae, build
from sae_core.config import TrainingConfig
from sae_core.progress import Progress, silent
from sae_core.synthetic.data import SyntheticData
from sae_core.synthetic.processes import divide, train_in_processes
from sae_core.synthetic_config import PointConfig, RecipeConfig
from sae_core.training import DivergedError, Job, train_together
from sae_core.training.schedules import learning_rate, learning_rate_factor
from sae_core.training.stacks import StackSettings, stackable, train_stack

_SAMPLES_AT_ONCE = 1 << 15
_SCALE_SAMPLES = 1 << 14
"""Samples that the mean squared norm is measured on."""
_DENSE_FEATURES = 512
"""Up to so many features autograd over all of them takes less than the search for those that are active."""


@dataclass(frozen=True)
class TrainedRuns:
    """The SAEs of a point, one for each seed; they read samples as they are."""

    saes: list[Sae]
    initial: list[Float[np.ndarray, "d_sae d_in"]]
    """Decoders before training."""
    kept: dict[int, list[Sae]]
    """SAEs after some steps."""
    seconds: float


def train_point(
    point: PointConfig,
    data: SyntheticData,
    seeds: Sequence[int],
    *,
    from_truth: bool = False,
    keep_after: Sequence[int] = (),
    divided: bool = True,
    progress: Progress = silent,
) -> TrainedRuns:
    """Train an SAE for each seed, in one pass over the samples where a seed changes the initial weights only.

    Args:
        from_truth: start at the true features instead of random directions.
        keep_after: numbers of steps after which SAEs are kept too; of TopK and Standard SAEs without options only.
        divided: whether other SAEs, where they train for long, may be divided among processes.

    Raises:
        ValueError: if an SAE diverges; the message names its seed.
    """
    began, recipe, variant = time.monotonic(), point.recipe, point.variant
    saes = [build(variant, data.config.d_in, seed) for seed in seeds]
    if from_truth:
        for sae, seed in zip(saes, seeds, strict=True):
            start_at_truth(sae, data, seed)
    initial = [sae.W_dec.detach().numpy().copy() for sae in saes]
    scale = _scale(data, recipe)
    lr = learning_rate(recipe.lr if variant.lr is None else variant.lr, variant.d_sae)
    training = _training(recipe, lr)
    kept: dict[int, list[Sae]] = {}

    def finished(sae: TrainableSae) -> Sae:
        return copy.deepcopy(sae).requires_grad_(False).eval().finished().fold_scale(scale)

    if stackable(variant):
        rates = np.array([lr * learning_rate_factor(step, training) for step in range(recipe.n_steps)])
        settings = StackSettings(rates, recipe.unit_decoder, recipe.grad_clip, recipe.mean_error, recipe.code_l1)
        train_stack(
            saes,
            _blocks(data, recipe, seeds, scale),
            settings,
            keep_after=keep_after,
            on_kept=lambda step: kept.update({step: [finished(sae) for sae in saes]}),
            on_steps=lambda step: progress(step, recipe.n_steps, f"step {step:,} of {recipe.n_steps:,}"),
        )
        ends = [finished(sae) for sae in saes]
    elif keep_after:
        raise ValueError(f"checkpoints are for topk and standard without options: got {variant.key}")
    elif divided and len(groups := divide(seeds, recipe.n_steps)) > 1:
        made = train_in_processes(point, groups, from_truth, progress)
        ends = [made[seed] for seed in seeds]
    else:
        ends = _together(saes, data, point, seeds, training, lr, scale, progress)
    return TrainedRuns(ends, initial, kept, time.monotonic() - began)


@torch.no_grad()
def start_at_truth(sae: TrainableSae, data: SyntheticData, seed: int) -> None:
    """Give an SAE the true features as decoder rows and, transposed, as the encoder.

    With room for fewer, those drawn in proportion to how often they fire; with room for more, the others stay.
    """
    n = min(sae.d_sae, data.config.d_gt)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.multinomial(data.weights.double(), n, generator=generator).sort().values
    rows = data.dictionary[chosen]
    sae.W_dec[:n] = rows
    sae.W_enc[:, :n] = rows.T


def _scale(data: SyntheticData, recipe: RecipeConfig) -> float:
    """Factor to unit mean squared norm."""
    if not recipe.unit_scale:
        return 1.0
    x = data.draw(recipe.n_samples or _SCALE_SAMPLES, _stream(recipe, 0)).x
    return float(x.double().pow(2).sum(1).mean().rsqrt())


def _stream(recipe: RecipeConfig, seed: int) -> int:
    """Which samples a seed is trained on."""
    return seed if recipe.vary == "init_and_data" else 0


def _blocks(
    data: SyntheticData, recipe: RecipeConfig, seeds: Sequence[int], scale: float
) -> Iterator[Float[Tensor, "..."]]:
    """Blocks of batches: ``(n_steps, batch, d_in)`` for all seeds, or that for each of them."""
    if recipe.vary == "init":
        yield from (scale * block for block in _one_stream(data, recipe, 0))
        return
    streams = [_one_stream(data, recipe, seed) for seed in seeds]
    yield from (scale * torch.stack(blocks) for blocks in zip(*streams, strict=True))


def _one_stream(data: SyntheticData, recipe: RecipeConfig, seed: int) -> Iterator[Float[Tensor, "n_steps batch d_in"]]:
    """Batches without end: drawn anew, or ``n_samples`` in an order of their own each time they are gone through."""
    n_steps = max(1, _SAMPLES_AT_ONCE // recipe.batch_size)
    size = n_steps * recipe.batch_size
    shape, start = (n_steps, recipe.batch_size, data.config.d_in), 0
    stream = _stream(recipe, seed)
    if recipe.n_samples is None:
        while True:
            yield data.draw(size, stream, start).x.reshape(shape)
            start += size
    samples = data.draw(recipe.n_samples, stream).x
    generator, order = torch.Generator().manual_seed(stream), torch.empty(0, dtype=torch.int64)
    while True:
        while len(order) < size:
            order = torch.cat([order, torch.randperm(len(samples), generator=generator)])
        yield samples[order[:size]].reshape(shape)
        order = order[size:]


def _training(recipe: RecipeConfig, lr: float) -> TrainingConfig:
    return TrainingConfig(
        n_steps=recipe.n_steps,
        batch_size=recipe.batch_size,
        lr=lr,
        warmup_steps=recipe.warmup_steps,
        decay_start=recipe.decay_start,
        sparsity_warmup_steps=0,
        grad_clip=recipe.grad_clip,
        b_dec_init="zero",
        dead_after_tokens=recipe.dead_after_samples,
        checkpoints=[],
        device="cpu",
        log_every=recipe.log_every,
    )


def _together(
    saes: Sequence[TrainableSae],
    data: SyntheticData,
    point: PointConfig,
    seeds: Sequence[int],
    training: TrainingConfig,
    lr: float,
    scale: float,
    progress: Progress,
) -> list[Sae]:
    """By the loop that trains every architecture."""

    def batches(seed: int) -> Iterator[Float[Tensor, "batch d_in"]]:
        for block in _one_stream(data, point.recipe, seed):
            yield from block

    variant = point.variant
    groups = [list(range(len(saes)))] if point.recipe.vary == "init" else [[place] for place in range(len(saes))]
    ends: list[Sae] = []
    with _one_thread():
        for places in groups:
            jobs = [Job(saes[place], seeds[place]) for place in places]
            found = train_together(
                jobs,
                batches(seeds[places[0]]),
                training,
                lr=lr,
                scale=scale,
                l2_coefficient=variant.l2_coefficient,
                aligned=variant.aligned,
                reference=variant.d_sae <= _DENSE_FEATURES,
                progress=progress,
            )
            for place, result in zip(places, found, strict=True):
                if isinstance(result, DivergedError):
                    raise ValueError(f"seed {seeds[place]}: {result}") from result
                ends.append(result.sae.fold_scale(scale))
    return ends


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small products are several times slower on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
