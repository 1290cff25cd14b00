"""Settings of training and of evaluation."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sae_core.config.architectures import LearningRate
from sae_core.config.base import Config, Fraction


class TrainingConfig(Config):
    """The one training loop. The defaults are the settings of Song et al. 2025, appendix."""

    n_steps: int = Field(ge=1)
    batch_size: int = Field(default=2048, ge=2)
    """Tokens in a step."""
    lr: LearningRate = 3e-4
    warmup_steps: int = Field(default=1000, ge=0)
    """Steps over which the learning rate rises from zero."""
    decay_start: float = Field(default=0.8, ge=0, le=1)
    """Share of the steps after which the learning rate falls linearly to zero."""
    sparsity_warmup_steps: int = Field(default=5000, ge=0)
    """Steps over which the sparsity penalty rises from zero."""
    grad_clip: float | None = Field(default=1.0, gt=0)
    """Largest norm of the gradient over all parameters; None leaves the gradient as it is."""
    b_dec_init: Literal["geometric_median", "mean", "zero"] = "geometric_median"
    """What the decoder bias starts from: a centre of the first batch, or zero."""
    data_fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of the contexts of the training text that a run sees, drawn with its ``data_seed``."""
    on_data_end: Literal["repeat", "stop"] = "repeat"
    """``repeat`` goes through the training text again, in another order. ``stop`` shows no token twice: where the text
    holds fewer than ``n_steps`` batches, the run has as many steps as it holds, and all schedules are for those."""
    dead_after_tokens: int = Field(default=10_000_000, ge=1)
    """A feature that did not fire for so many training tokens counts as dead while training."""
    resample_dead: bool = False
    """Standard only: re-initialise features that stay dead, as Bricken et al. 2023 do."""
    resample_at: list[Fraction] = Field(default=[0.125, 0.25, 0.375, 0.5])
    """Shares of the steps after which ``resample_dead`` acts (Bricken et al. 2023: 25k, 50k, 75k, 100k of 200k)."""
    checkpoints: list[Annotated[float, Field(ge=0, le=1)]] | Literal["paper"] = "paper"
    """Shares of the steps after which the SAE is also kept in ``checkpoints/step_<n>``; [] keeps none. ``paper`` is 0,
    0.1, 0.316, 1, 3.16, 10, 31.6 % and each 10 %: 15 SAEs on disk for each run. The last step needs none: it is the
    SAE itself."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """``bfloat16`` computes the products of the loss in it (autocast), which GPUs do faster; weights and sums stay
    float32. On a CPU it only costs: it goes without the sparse step."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    watch: list[Literal["tensorboard", "wandb"]] = Field(default=[])
    """Where the curves can be watched while training goes on: TensorBoard in ``<store>/tensorboard``, Weights & Biases
    where its environment variables say (with ``WANDB_MODE=offline`` in ``<store>/wandb``). Needs ``pip install
    sae-concord[tensorboard]`` or ``[wandb]``. Changes no bit."""
    resume_minutes: float = Field(default=1.0, ge=0)
    """Minutes between two states saved for resuming; a killed run loses at most so much."""
    log_every: int = Field(default=50, ge=1)
    """Steps between two points of the training curves."""

    def decisive(self) -> dict[str, Any]:
        """The settings that decide what comes out, as JSON values: all but where and how watched a run is."""
        return self.model_dump(mode="json", exclude={"device", "watch", "resume_minutes"})

    @model_validator(mode="after")
    def _schedule_fits(self) -> "TrainingConfig":
        if self.warmup_steps > self.decay_start * self.n_steps:
            raise ValueError(
                f"warmup_steps must end before the decay starts: got warmup_steps={self.warmup_steps}, "
                f"decay_start * n_steps = {self.decay_start * self.n_steps:g}; lower warmup_steps or raise n_steps"
            )
        if self.sparsity_warmup_steps > self.n_steps:
            raise ValueError(
                f"sparsity_warmup_steps must not exceed n_steps={self.n_steps}: "
                f"got {self.sparsity_warmup_steps}; lower it"
            )
        return self


class RunSeeds(Config):
    """What is random in one training run."""

    init_seed: int
    """Initial weights."""
    order_seed: int
    """Order of the training tokens."""
    data_seed: int = 0
    """Which contexts are seen, where ``data_fraction`` is below 1."""


class EvaluationConfig(Config):
    """Held-out tokens an SAE is measured on."""

    n_tokens: int = Field(default=131_072, ge=1)
    """Stored held-out activations for L0, FVE, dead share and frequencies (all of them when there are fewer)."""
    n_loss_contexts: int = Field(default=64, ge=1)
    """Held-out contexts run through the language model with the reconstruction patched in."""
