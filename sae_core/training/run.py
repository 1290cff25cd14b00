"""One training run: its weights, its optimiser, and the state they are in, step by step. Part of the training stage."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_core.architectures import Moment, Sae, trainable
from sae_core.config import TrainingConfig
from sae_core.devices import resolve_device
from sae_core.training.gradients import AutogradGradients, BatchNumbers, choose_gradients
from sae_core.training.initial_values import CENTRES, resample
from sae_core.training.optimiser import ConstrainedAdam
from sae_core.training.schedules import checkpoint_steps, learning_rate_factor, sparsity_factor, steps_at
from sae_core.training.state import CurvePoint, TrainingState, load_state, save_state

Observer = Callable[[int, dict[str, float]], None]
"""``on_step(step, numbers)`` with plain floats: ``loss``, ``mse``, ``l0``, ``fve``, ``dead_fraction``, ``lr``,
``sparsity_scale``, ``tokens_per_second``, and what the architecture adds (``TrainableSae.watched``)."""


class DivergedError(ValueError):
    """A loss or a gradient is not finite any more."""

    def __init__(self, step: int, message: str):
        super().__init__(message)
        self.step = step
        """Steps done before."""


@dataclass(frozen=True)
class TrainingResult:
    """A trained SAE and how it got there."""

    sae: Sae
    """The one to use: ``finished()``, so a BatchTopK SAE comes out as the JumpReLU SAE it is in use. It works on
    activations times the scale it was trained with (see ``Sae.fold_scale``)."""
    curve: list[CurvePoint]
    watched: list[dict[str, float]]
    """Numbers of the architecture's own at every point of the curve."""
    seconds: list[float]
    """Wall time at every point of the curve."""
    n_steps: int
    """Steps done."""
    n_tokens: int
    """Training tokens seen, repetitions counted."""
    lr: float
    """Learning rate, before warm-up and decay."""
    gradients: str
    """How gradients were computed: ``sparse`` or ``autograd``."""


@dataclass(frozen=True)
class Job:
    """An SAE to be trained, with what belongs to it alone; the arguments are those of ``train``."""

    sae: Sae
    seed: int = 0
    on_step: Observer | None = None
    resume: Path | None = None
    on_checkpoint: Callable[[int, Sae], None] | None = None


@dataclass(frozen=True)
class Settings:
    """What runs that are trained together have in common; the arguments are those of ``train``."""

    config: TrainingConfig
    lr: float
    scale: float = 1.0
    l2_coefficient: float = 0.0
    aligned: bool = False
    reference: bool = False


class Run:
    """A training run that is advanced batch by batch."""

    def __init__(self, job: Job, settings: Settings):
        config = settings.config
        self.job, self.settings, self.config = job, settings, config
        self.sae, self.device = trainable(job.sae), resolve_device(config.device)
        self.sae.to(self.device).train().requires_grad_(True)
        self.gradients = (
            choose_gradients(self.sae, settings.reference)
            if config.precision == "float32"
            else AutogradGradients(self.sae, config.precision)
        )
        self.adam = ConstrainedAdam(
            self.sae, config.grad_clip, l2_coefficient=settings.l2_coefficient, aligned=settings.aligned
        )
        self.state = TrainingState(torch.zeros(self.sae.d_sae, dtype=torch.int64, device=self.device))
        resamples = config.resample_dead and self.sae.can_resample
        self._resample_steps = steps_at(config.resample_at, config) if resamples else set()
        self._checkpoint_steps = checkpoint_steps(config) if job.on_checkpoint else set()
        self._saved: float | None = None
        self._last: tuple[BatchNumbers, Tensor] | None = None
        if job.resume:
            self._restore(job.resume)
        self._started = time.monotonic()
        self._seconds_before = self.state.seconds[-1] if self.state.seconds else 0.0
        self._steps_before = self.state.step

    def advance(self, x: Float[Tensor, "batch d_in"]) -> CurvePoint | None:
        """One step on activations as stored, and all that is due after it; a point of the curve where one was added.

        Raises:
            ValueError: if the activations have another width, or are not finite.
            DivergedError: if the loss or the gradient is not finite; weights and moments are as they were.
        """
        if self.state.step == 0 and self._saved is None:  # what was saved at step 0 has its checkpoint already
            self._checkpoint()
        x = self._scaled(x)
        numbers = self._step(x)
        self._last = (numbers, x)
        step = self.state.step
        point = self._record() if step % self.config.log_every == 0 or step == self.config.n_steps else None
        self._checkpoint()
        return point

    def finish(self) -> TrainingResult:
        """The end, at the last step or where the batches ended. The final state is saved too: whoever is killed before
        the result is written has nothing to train again.
        """
        if self._last and (not self.state.curve or self.state.curve[-1].step != self.state.step):
            self._record()
        if self.job.resume and self._last:
            self._save(self.job.resume)
        sae = self.sae.requires_grad_(False).eval().finished()
        state, n_tokens = self.state, self.state.step * self.config.batch_size
        return TrainingResult(
            sae, state.curve, state.watched, state.seconds, state.step, n_tokens, self.settings.lr, self.gradients.name
        )

    def tokens_per_second(self) -> float:
        """Since this process took up the run."""
        steps = self.state.step - self._steps_before
        return steps * self.config.batch_size / max(1e-9, time.monotonic() - self._started)

    def _scaled(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_in"]:
        if x.shape[-1] != self.sae.d_in:
            raise ValueError(
                f"batch of step {self.state.step} has width {x.shape[-1]}, expected d_in = {self.sae.d_in}"
            )
        x = x.to(self.device, torch.float32) * self.settings.scale
        if not math.isfinite(float(x.sum())):
            raise ValueError(
                f"batch of step {self.state.step} holds NaN or inf; verify the activation shards and extract them again"
            )
        return x

    def _step(self, x: Float[Tensor, "batch d_in"]) -> BatchNumbers:
        state, config, step = self.state, self.config, self.state.step
        if step == 0:
            self.sae.b_dec.data.copy_(CENTRES[config.b_dec_init](x))
        dead = self._dead()
        moment = Moment(step, config.n_steps, sparsity_factor(step, config), dead if bool(dead.any()) else None)
        numbers = self.gradients(x, moment)
        if not math.isfinite(numbers.loss):
            raise self._diverged(f"the loss became {numbers.loss} at step {step}", moment)
        # Here and not after the update: what is saved has a finite loss, so it is good to go back to.
        self._save_where_due()
        if numbers.values is not None:
            self.sae.observe(numbers.values, len(x), moment)
        try:
            self.adam.step(self.settings.lr * learning_rate_factor(step, config))
        except ValueError as error:
            reason = str(error).partition(";")[0]
            raise self._diverged(f"{reason} at step {step}", moment) from error
        state.step += 1
        state.tokens_since_fired += len(x)
        state.tokens_since_fired[numbers.fired] = 0
        if state.step in self._resample_steps:
            changed = resample(self.sae, x, self._dead(), self.job.seed + step)
            self.adam.forget(changed)
            state.tokens_since_fired[changed] = 0
        return numbers

    @torch.no_grad()
    def _diverged(self, what: str, moment: Moment) -> DivergedError:
        """The error; before, the state is saved where it is the batch that is to blame: the one before it is still
        reconstructed about as well as it was. Otherwise the state saved last stays, which is older and better.
        """
        if self.job.resume and self._last:
            numbers, x = self._last
            if float(self.sae.loss(x, moment).error) <= 2 * numbers.error:
                self._save(self.job.resume)
        return DivergedError(
            self.state.step,
            f"{what}; lower lr (now {self.settings.lr:g}), raise warmup_steps, or look at the batch of that step for "
            "outliers",
        )

    def _record(self) -> CurvePoint:
        """Add a point to the curves: the last step's numbers."""
        assert self._last is not None
        (numbers, x), step = self._last, self.state.step - 1
        variance = float((x - x.mean(0)).pow(2).sum(1).mean())
        point = CurvePoint(
            step=self.state.step,
            loss=numbers.loss,
            mse=numbers.error,
            l0=numbers.l0,
            fve=1 - numbers.error / variance if variance > 0 else 0.0,
            dead_fraction=float(self._dead().double().mean()),
            lr=self.settings.lr * learning_rate_factor(step, self.config),
            sparsity_scale=sparsity_factor(step, self.config),
        )
        watched = self.sae.watched()
        self.state.curve.append(point)
        self.state.watched.append(watched)
        self.state.seconds.append(self._seconds_before + time.monotonic() - self._started)
        if self.job.on_step:
            told = {**watched, **asdict(point), "tokens_per_second": self.tokens_per_second()}
            self.job.on_step(point.step, {name: float(value) for name, value in told.items() if name != "step"})
        return point

    def _checkpoint(self) -> None:
        if self.job.on_checkpoint and self.state.step in self._checkpoint_steps:
            self.job.on_checkpoint(self.state.step, self.sae)

    def _save_where_due(self) -> None:
        interval = 60 * self.config.resume_minutes
        if self.job.resume and (self._saved is None or time.monotonic() - self._saved >= interval):
            self._save(self.job.resume)

    def _save(self, path: Path) -> None:
        save_state(path, self._identity(), self.sae, self.adam, self.state)
        self._saved = time.monotonic()

    def _restore(self, path: Path) -> None:
        """Go on from a saved state, where there is one."""
        state = load_state(path, self._identity(), self.sae, self.adam)
        if state:
            self.state, self._saved = state, time.monotonic()

    def _dead(self) -> Bool[Tensor, " d_sae"]:
        return self.state.tokens_since_fired >= self.config.dead_after_tokens

    def _identity(self) -> dict[str, Any]:
        settings = {name: getattr(self.sae, name) for name in self.sae.encode_settings}
        sizes = {"architecture": self.sae.architecture, "d_in": self.sae.d_in, "d_sae": self.sae.d_sae}
        shared = {name: getattr(self.settings, name) for name in ("lr", "scale", "l2_coefficient", "aligned")}
        own = {"seed": self.job.seed, "gradients": self.gradients.name}
        return {"training": self.config.decisive(), **sizes, **settings, **shared, **own}
