"""What one training step does with gradients: schedules, the constrained Adam step, and dead features re-initialised.

Part of the training stage; ``training`` has the loop, ``training_gradients`` the gradients.
"""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_core.architectures import Sae
from sae_core.config import LearningRate, TrainingConfig


def learning_rate(lr: LearningRate, d_sae: int) -> float:
    """The number behind ``auto``: ``2e-4 / sqrt(d_sae / 2 ** 14)`` (Gao et al. 2024, figure 3)."""
    return 2e-4 / math.sqrt(d_sae / 2**14) if lr == "auto" else lr


def learning_rate_factor(step: int, config: TrainingConfig) -> float:
    """Factor on the learning rate of step ``step`` (from 0): a linear rise, one, a linear fall to zero; in (0, 1]."""
    decay_start = config.decay_start * config.n_steps
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if step >= decay_start:
        return (config.n_steps - step) / (config.n_steps - decay_start)
    return 1.0


def sparsity_factor(step: int, config: TrainingConfig) -> float:
    """Factor on the sparsity penalty of step ``step`` (from 0): rises linearly to one; in (0, 1]."""
    return min(1.0, (step + 1) / max(1, config.sparsity_warmup_steps))


def geometric_median(
    points: Float[Tensor, "n d"], max_iterations: int = 100, tolerance: float = 1e-5
) -> Float[Tensor, " d"]:
    """The point with the least sum of distances, by Weiszfeld's iteration from the mean; robust against outliers.

    Stops when a step is shorter than ``tolerance`` times the root mean square of the points.
    """
    points = points.double()
    guess = points.mean(0)
    smallest_step = tolerance * float(points.pow(2).sum(1).mean().sqrt())
    for _ in range(max_iterations):
        # A point that coincides with the guess would get an infinite weight.
        weights = 1 / (points - guess).norm(dim=1).clamp_min(1e-12)
        previous, guess = guess, (weights @ points) / weights.sum()
        if float((guess - previous).norm()) <= smallest_step:
            break
    return guess.float()


class ConstrainedAdam:
    """Adam on an SAE whose decoder rows keep unit length, with the whole gradient clipped by its norm.

    Without the component of a decoder gradient along its row, Adam spends nothing on a direction that the
    renormalisation takes back (Bricken et al. 2023).
    """

    def __init__(self, sae: Sae, grad_clip: float):
        self._sae, self._grad_clip = sae, grad_clip
        self._adam = torch.optim.Adam(sae.parameters(), lr=0.0, betas=(0.9, 0.999), fused=True)

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One step along ``.grad`` of the parameters.

        Raises:
            ValueError: if the gradient is not finite; nothing was changed.
        """
        rows, gradient = self._sae.W_dec, self._sae.W_dec.grad
        if gradient is None:
            raise RuntimeError("W_dec has no gradient: compute the gradients before the step")
        gradient -= (gradient * rows).sum(1, keepdim=True) * rows
        norm = float(torch.nn.utils.clip_grad_norm_(self._sae.parameters(), self._grad_clip))
        if not math.isfinite(norm):
            raise ValueError(f"the norm of the gradient became {norm}; lower lr or raise warmup_steps")
        self._adam.param_groups[0]["lr"] = lr
        self._adam.step()
        rows.div_(rows.norm(dim=1, keepdim=True))

    @torch.no_grad()
    def forget(self, features: Bool[Tensor, " d_sae"]) -> None:
        """Zero the moments of these features."""
        for parameter, index in ((self._sae.W_enc, 1), (self._sae.W_dec, 0), (self._sae.b_enc, 0)):
            for name in ("exp_avg", "exp_avg_sq"):
                moments = self._adam.state[parameter].get(name)
                if moments is not None:
                    moments.index_fill_(index, features.nonzero().flatten(), 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Adam's moments and step count."""
        return self._adam.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up saved moments."""
        self._adam.load_state_dict(state)


@torch.no_grad()
def resample(
    sae: Sae, x: Float[Tensor, "batch d_in"], dead: Bool[Tensor, " d_sae"], seed: int
) -> Bool[Tensor, " d_sae"]:
    """Point dead features at inputs that are reconstructed badly (Bricken et al. 2023, appendix on neuron resampling).

    Inputs are drawn without replacement with probabilities proportional to their squared error squared. A drawn
    input, centred by ``b_dec``, gives the decoder row; the encoder gets the same direction, a fifth as long as the
    average encoder of the features alive; the bias is zero.

    Returns:
        The features that were changed: all dead ones, or as many as there are inputs to point at.
    """
    centred = x - sae.b_dec
    error = (sae(x) - x).pow(2).sum(1).double().cpu()
    features = dead.nonzero().flatten()[: int((error > 0).sum())]
    changed = torch.zeros_like(dead)
    if len(features) == 0:
        return changed
    weights = (error / error.max()).pow(2).clamp_min(torch.finfo(torch.float64).tiny) * (error > 0)
    drawn = torch.multinomial(weights, len(features), generator=torch.Generator().manual_seed(seed)).to(x.device)
    directions = torch.nn.functional.normalize(centred[drawn], dim=1)
    alive = ~dead
    length = sae.W_enc[:, alive].norm(dim=0).mean() if alive.any() else sae.W_enc.norm(dim=0).mean()
    sae.W_dec[features] = directions
    sae.W_enc[:, features] = (0.2 * length * directions).T
    sae.b_enc[features] = 0.0
    changed[features] = True
    return changed
