"""What gradients of an SAE's loss are, and the reference that computes them: autograd. Part of the training stage."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_core.architectures import Moment, TrainableSae


@dataclass(frozen=True)
class BatchNumbers:
    """What a batch says besides its gradients."""

    loss: float
    """What is minimised."""
    error: float
    """Squared error summed over d_in, mean over the batch."""
    l0: float
    """Features active on a token, mean over the batch."""
    fired: Bool[Tensor, " d_sae"]
    """Features active on at least one token."""
    values: Float[Tensor, " n_active"] | None = None
    """The positive codes, in any order, for an SAE that ``observes`` them."""


@runtime_checkable
class Gradients(Protocol):
    """Computes the gradients of one SAE, batch by batch."""

    name: str

    def __call__(self, x: Float[Tensor, "batch d_in"], moment: Moment) -> BatchNumbers:
        """Set ``.grad`` of every parameter to the gradient of the loss on ``x``."""
        ...


class AutogradGradients:
    """Every architecture, every device: the loss and its backward pass."""

    name = "autograd"

    def __init__(self, sae: TrainableSae, precision: Literal["float32", "bfloat16"] = "float32"):
        """``bfloat16`` computes the products of the loss in it (autocast); weights and gradients stay float32."""
        self._sae, self._in_bfloat16 = sae, precision == "bfloat16"

    def __call__(self, x: Float[Tensor, "batch d_in"], moment: Moment) -> BatchNumbers:
        """As the protocol says."""
        self._sae.zero_grad(set_to_none=True)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self._in_bfloat16):
            loss = self._sae.loss(x, moment)
        loss.total.backward()  # type: ignore[no-untyped-call]
        active = loss.codes.detach() > 0
        values = loss.codes.detach()[active] if self._sae.observes else None
        l0 = float(active.sum()) / len(x)
        return BatchNumbers(float(loss.total.detach()), float(loss.error.detach()), l0, active.any(0), values)
