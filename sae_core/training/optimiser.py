"""The update of an SAE along its gradients. Part of the training stage."""

import math
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from sae_core.architectures import Sae


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
