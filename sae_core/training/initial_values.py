"""Values that training takes from the data: the decoder bias it starts with, and dead features begun anew.

Part of the training stage.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_core.architectures import Sae


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


CENTRES: dict[str, Callable[[Float[Tensor, "n d"]], Float[Tensor, " d"]]] = {
    "geometric_median": geometric_median,
    "mean": lambda points: points.double().mean(0).float(),
    "zero": lambda points: points.new_zeros(points.shape[1]),
}
"""What the decoder bias can start from, by the names of ``TrainingConfig.b_dec_init``."""


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
