"""JumpReLU SAE (Rajamanoharan et al. 2024b): a threshold for each feature, learned through a smoothed derivative."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_core.architectures.base import TRAINED_HERE, Conventions
from sae_core.architectures.trainable import WITHOUT_WARMUP, Loss, Moment, TrainableSae, needed, squared_error


@final
class JumpReLU(TrainableSae):
    """Codes are the pre-activations above each feature's ``threshold``, and zero where that is negative.

    Trained, it does not subtract ``b_dec`` from its input, as in the paper.
    """

    architecture = "jumprelu"
    in_activation_units = ("b_enc", "b_dec", "threshold")
    adam_betas = (0.0, 0.999)
    loss_needs = "target_l0"
    trained_with = Conventions(subtract_b_dec=False)

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        target_l0: float | None = None,
        sparsity_coefficient: float = 1.0,
        bandwidth: float = 0.001,
        initial_threshold: float = 0.0,
        conventions: Conventions = TRAINED_HERE,
    ):
        """``target_l0`` None is an SAE to use, not to train."""
        super().__init__(d_in, d_sae, conventions)
        self.target_l0, self.sparsity_coefficient, self.bandwidth = target_l0, sparsity_coefficient, bandwidth
        self.threshold = nn.Parameter(torch.full((d_sae,), initial_threshold))

    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """See the class."""
        return pre.relu() * (pre > self.threshold)

    def loss(self, x: Float[Tensor, "batch d_in"], moment: Moment = WITHOUT_WARMUP) -> Loss:
        """Reconstruction error plus ``sparsity_coefficient * sparsity_scale * (L0 / target_l0 - 1)^2``.

        The derivative of a code by its threshold is ``-threshold / bandwidth`` times the window around it, that of
        L0 ``-1 / bandwidth`` times the window, where the window is one for values closer than half a bandwidth.
        As in the training code of the paper on consistency, the window of L0 is laid over the *codes*.
        """
        codes = _Jump.apply(self.pre_activations(x), self.threshold, self.bandwidth)  # type: ignore[no-untyped-call]
        error = squared_error(x, self.decode(codes))
        l0 = _Step.apply(codes, self.threshold, self.bandwidth).sum(-1).mean()  # type: ignore[no-untyped-call]
        penalty = self.sparsity_coefficient * moment.sparsity_scale * (l0 / needed(self, "target_l0") - 1).pow(2)
        return Loss(error + penalty, error, codes)

    def watched(self) -> dict[str, float]:
        """The mean threshold."""
        return {"threshold": float(self.threshold.detach().mean())}


def _window(value: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    return ((value - threshold).abs() < bandwidth / 2).to(value.dtype)


class _Jump(torch.autograd.Function):
    """Identity above the threshold, zero below."""

    @staticmethod
    def forward(context, pre, threshold, bandwidth):  # type: ignore[no-untyped-def]
        context.save_for_backward(pre, threshold)
        context.bandwidth = bandwidth
        return pre * (pre > threshold)

    @staticmethod
    def backward(context, gradient):  # type: ignore[no-untyped-def]
        pre, threshold = context.saved_tensors
        by_threshold = -threshold / context.bandwidth * _window(pre, threshold, context.bandwidth) * gradient
        return gradient * (pre > threshold), by_threshold.sum(0), None


class _Step(torch.autograd.Function):
    """One above the threshold, zero below; no derivative by the value."""

    @staticmethod
    def forward(context, value, threshold, bandwidth):  # type: ignore[no-untyped-def]
        context.save_for_backward(value, threshold)
        context.bandwidth = bandwidth
        return (value > threshold).to(value.dtype)

    @staticmethod
    def backward(context, gradient):  # type: ignore[no-untyped-def]
        value, threshold = context.saved_tensors
        by_threshold = -_window(value, threshold, context.bandwidth) / context.bandwidth * gradient
        return torch.zeros_like(value), by_threshold.sum(0), None
