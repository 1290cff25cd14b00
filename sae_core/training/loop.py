"""The one training loop, which knows no architecture: batches of activations in, a trained SAE out.

Part of the training stage. Activations are scaled to unit mean squared norm while training.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_core.architectures import Moment, Sae, trainable
from sae_core.config import LearningRate, TrainingConfig
from sae_core.devices import resolve_device
from sae_core.progress import Progress, silent
from sae_core.training.gradients import BatchNumbers, choose_gradients
from sae_core.training.initial_values import geometric_median, resample
from sae_core.training.optimiser import ConstrainedAdam
from sae_core.training.schedules import learning_rate, learning_rate_factor, sparsity_factor
from sae_core.training.state import CurvePoint, TrainingState, load_state, save_state

Batches = Iterator[Float[Tensor, "batch d_in"]] | Callable[[int], Iterator[Float[Tensor, "batch d_in"]]]
"""Batches from the first one on, or a function that gives them from batch ``start`` on, which a resumed run needs."""

Observer = Callable[[int, dict[str, float]], None]
"""``on_step(step, numbers)`` with plain floats: ``loss``, ``mse``, ``l0``, ``fve``, ``dead_fraction``, ``lr``, ..."""


@dataclass(frozen=True)
class TrainingResult:
    """A trained SAE and how it got there."""

    sae: Sae
    """Works on activations times the scale it was trained with (see ``Sae.fold_scale``)."""
    curve: list[CurvePoint]
    seconds: list[float]
    """Wall time at every point of the curve."""
    n_tokens: int
    """Training tokens seen, repetitions counted."""
    gradients: str
    """How gradients were computed: ``sparse`` or ``autograd``."""


def train(
    sae: Sae,
    batches: Batches,
    config: TrainingConfig,
    on_step: Observer | None = None,
    *,
    lr: LearningRate | None = None,
    scale: float = 1.0,
    seed: int = 0,
    resume: Path | None = None,
    on_checkpoint: Callable[[int, Sae], None] | None = None,
    reference: bool = False,
    progress: Progress = silent,
) -> TrainingResult:
    """Train an SAE in place.

    Args:
        sae: as ``build`` makes it; moved to the device of the config.
        batches: ``config.n_steps`` batches of activations, as stored.
        on_step: told every ``log_every`` steps; watching changes nothing.
        lr: learning rate; None takes ``config.lr``.
        scale: factor on the activations, ``1 / sqrt(mean squared norm)``: losses and penalties are for unit mean
            squared norm.
        seed: of the inputs drawn for ``resample_dead``; nothing else here is random.
        resume: file that keeps the state every ``config.resume_minutes``; a run that finds one goes on from it.
        on_checkpoint: called with the SAE, which it must not change, after each share of steps in
            ``config.checkpoints``.
        reference: compute gradients by autograd even where the sparse kernels could.

    Raises:
        ValueError: if the SAE cannot be trained here, the batches end early, are not finite or have another width, or
            the loss is not finite.
    """
    run = _Run(
        sae,
        config,
        lr=learning_rate(config.lr if lr is None else lr, sae.d_sae),
        scale=scale,
        seed=seed,
        reference=reference,
    )
    if resume:
        run.restore(resume)
    stream = batches(run.state.step) if callable(batches) else _first_only(batches, run.state.step)
    checkpoint_steps = _steps(config.checkpoints, config) if on_checkpoint else set()
    if on_checkpoint and run.state.step == 0 and 0 in checkpoint_steps:
        on_checkpoint(0, sae)
    saved = time.monotonic()
    for step in range(run.state.step, config.n_steps):
        numbers, x = run.step(_next(stream, step, config))
        if run.state.step % config.log_every == 0 or run.state.step == config.n_steps:
            point = run.record(numbers, x)
            if on_step:
                on_step(point.step, {name: float(value) for name, value in asdict(point).items() if name != "step"})
            progress(point.step, config.n_steps, _describe(point, run.tokens_per_second()))
        if on_checkpoint and run.state.step in checkpoint_steps:
            on_checkpoint(run.state.step, sae)
        if resume and time.monotonic() - saved >= 60 * config.resume_minutes:
            run.save(resume)
            saved = time.monotonic()
    sae.requires_grad_(False).eval()
    n_tokens = config.n_steps * config.batch_size
    return TrainingResult(sae, run.state.curve, run.state.seconds, n_tokens, run.gradients.name)


class _Run:
    """One training run: its weights, its optimiser, and the state they are in."""

    def __init__(self, sae: Sae, config: TrainingConfig, *, lr: float, scale: float, seed: int, reference: bool):
        self.device = resolve_device(config.device)
        self.sae, self.config, self.lr, self.scale, self.seed = trainable(sae), config, lr, scale, seed
        sae.to(self.device).train().requires_grad_(True)
        self.gradients = choose_gradients(self.sae, reference)
        self.adam = ConstrainedAdam(sae, config.grad_clip)
        self.state = TrainingState(torch.zeros(sae.d_sae, dtype=torch.int64, device=self.device))
        resamples = config.resample_dead and sae.can_resample
        self._resample_steps = _steps(config.resample_at, config) if resamples else set()
        self._started, self._seconds_before, self._steps_before = time.monotonic(), 0.0, 0

    def step(self, x: Float[Tensor, "batch d_in"]) -> tuple[BatchNumbers, Float[Tensor, "batch d_in"]]:
        """One step on activations as stored; returns what the batch said, and the scaled batch."""
        state, config, step = self.state, self.config, self.state.step
        if x.shape[-1] != self.sae.d_in:
            raise ValueError(f"batch of step {step} has width {x.shape[-1]}, expected d_in = {self.sae.d_in}")
        x = x.to(self.device, torch.float32) * self.scale
        if not math.isfinite(float(x.sum())):
            raise ValueError(
                f"batch of step {step} holds NaN or inf; verify the activation shards and extract them again"
            )
        if step == 0:
            self.sae.b_dec.data.copy_(geometric_median(x))
        dead = self._dead()
        scale = sparsity_factor(step, config)
        moment = Moment(step, config.n_steps, scale, dead if bool(dead.any()) else None)
        numbers = self.gradients(x, moment)
        if not math.isfinite(numbers.loss):
            raise ValueError(
                f"the loss became {numbers.loss} at step {step}; lower lr (now {self.lr:g}), raise warmup_steps, "
                "or look at the batch of that step for outliers"
            )
        if numbers.values is not None:
            self.sae.observe(numbers.values, len(x), moment)
        self.adam.step(self.lr * learning_rate_factor(step, config))
        state.step += 1
        state.tokens_since_fired += len(x)
        state.tokens_since_fired[numbers.fired] = 0
        if state.step in self._resample_steps:
            changed = resample(self.sae, x, self._dead(), self.seed + step)
            self.adam.forget(changed)
            state.tokens_since_fired[changed] = 0
        return numbers, x

    def record(self, numbers: BatchNumbers, x: Float[Tensor, "batch d_in"]) -> CurvePoint:
        """Add a point to the curves: the last step's numbers."""
        step = self.state.step - 1
        variance = float((x - x.mean(0)).pow(2).sum(1).mean())
        point = CurvePoint(
            step=self.state.step,
            loss=numbers.loss,
            mse=numbers.error,
            l0=numbers.l0,
            fve=1 - numbers.error / variance if variance > 0 else 0.0,
            dead_fraction=float(self._dead().double().mean()),
            lr=self.lr * learning_rate_factor(step, self.config),
            sparsity_scale=sparsity_factor(step, self.config),
        )
        self.state.curve.append(point)
        self.state.seconds.append(self._seconds_before + time.monotonic() - self._started)
        return point

    def tokens_per_second(self) -> float:
        steps = self.state.step - self._steps_before
        return steps * self.config.batch_size / max(1e-9, time.monotonic() - self._started)

    def save(self, path: Path) -> None:
        save_state(path, self._identity(), self.sae, self.adam, self.state)

    def restore(self, path: Path) -> None:
        """Go on from a saved state, where there is one."""
        state = load_state(path, self._identity(), self.sae, self.adam)
        if state:
            self.state, self._steps_before = state, state.step
            self._seconds_before = state.seconds[-1] if state.seconds else 0.0

    def _dead(self) -> Bool[Tensor, " d_sae"]:
        return self.state.tokens_since_fired >= self.config.dead_after_tokens

    def _identity(self) -> dict[str, Any]:
        config = self.config.model_dump(mode="json", exclude={"resume_minutes", "device"})
        settings = {name: getattr(self.sae, name) for name in self.sae.encode_settings}
        sizes = {"architecture": self.sae.architecture, "d_in": self.sae.d_in, "d_sae": self.sae.d_sae}
        own = {"lr": self.lr, "scale": self.scale, "seed": self.seed, "gradients": self.gradients.name}
        return {"training": config, **sizes, **settings, **own}


def _next(stream: Iterator[Float[Tensor, "batch d_in"]], step: int, config: TrainingConfig) -> Tensor:
    x = next(stream, None)
    if x is None:
        raise ValueError(
            f"the batches ended after {step} steps, expected {config.n_steps}; lower n_steps or repeat the data"
        )
    return x


def _first_only(batches: Iterator[Tensor], step: int) -> Iterator[Tensor]:
    if step > 0:
        raise ValueError(
            f"cannot go on from step {step} with an iterator; give train() a function that starts at any batch, "
            "for example lambda start: shards.batches(batch_size, seed, start)"
        )
    return batches


def _steps(shares: list[float], config: TrainingConfig) -> set[int]:
    return {round(share * config.n_steps) for share in shares}


def _describe(point: CurvePoint, tokens_per_second: float) -> str:
    return (
        f"step {point.step:,}: FVE {point.fve:.3f}, L0 {point.l0:.1f}, dead {point.dead_fraction:.1%}, "
        f"{tokens_per_second:,.0f} tokens/s"
    )
