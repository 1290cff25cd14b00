"""The update of an SAE along its gradients. Part of the training stage."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_core.architectures import TrainableSae
from sae_core.kernel_options import torch_threads
from sae_core.training import update_kernels as kernels

EPSILON = 1e-8
"""Added to the root of Adam's second moment."""


class ConstrainedAdam:
    """Adam with the constraints of an SAE, clipped by the norm of the whole gradient.

    In a step, ``2 l2_coefficient W`` is added to the gradients of both weight matrices. Then, where ``unit_decoder``,
    each decoder gradient loses its component along its row, and with it what was just added: Adam spends nothing on a
    direction that the renormalisation after the update takes back (Bricken et al. 2023). Where ``aligned``, each
    encoder gradient loses its component along the decoder row too, and after the update the encoder direction e is
    moved along its decoder row d until ``e . d = 1``.

    On a CPU in float32 the rows are updated by kernels that read and write each once; elsewhere by torch, which is also
    what the tests compare the kernels with.
    """

    def __init__(self, sae: TrainableSae, grad_clip: float | None, l2_coefficient: float = 0.0, aligned: bool = False):
        self._sae, self._grad_clip, self._aligned = sae, grad_clip, aligned
        self._decay = 2 * l2_coefficient
        self._steps = 0
        self._moments = {
            name: (torch.zeros_like(parameter), torch.zeros_like(parameter))
            for name, parameter in sae.named_parameters()
        }
        stored_by_feature = sae.W_enc.T.is_contiguous() and sae.W_dec.is_contiguous()
        on_cpu = sae.W_dec.device.type == "cpu" and sae.W_dec.dtype == torch.float32
        self._by_rows = _RowUpdate(sae, self._decay, aligned) if on_cpu and stored_by_feature else None

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One step along ``.grad`` of the parameters, which is not to be used any more.

        Raises:
            RuntimeError: if a parameter has no gradient.
            ValueError: if the norm of the gradient is not finite; nothing was changed.
        """
        gradients = self._gradients()
        if self._by_rows:
            rows = {name: gradients.pop(name) for name in ("W_enc", "W_dec")}
            squared = self._by_rows.squared_norm(rows)
        else:
            self._constrain(gradients)
            squared = 0.0
        squared += sum(_squared_norm(gradient) for gradient in gradients.values())
        clip = self._clip(math.sqrt(squared))
        self._steps += 1
        beta1, beta2 = self._sae.adam_betas
        rate, root = lr / (1 - beta1**self._steps), math.sqrt(1 - beta2**self._steps)
        parameters = dict(self._sae.named_parameters())
        for name, gradient in gradients.items():
            gradient = gradient * clip
            mean, square = self._moments[name]
            mean.lerp_(gradient, 1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            parameters[name].addcdiv_(mean, square.sqrt().div_(root).add_(EPSILON), value=-rate)
        if self._by_rows:
            self._by_rows.update(rows, self._moments, (clip, beta1, beta2, rate, root, EPSILON))
        else:
            self._renormalise()

    @torch.no_grad()
    def forget(self, features: Bool[Tensor, " d_sae"]) -> None:
        """Zero the moments of these features."""
        index = features.nonzero().flatten()
        for name, moments in self._moments.items():
            if name not in ("b_dec", "W_skip"):
                for moment in moments:
                    moment.index_fill_(1 if name == "W_enc" else 0, index, 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Adam's moments and step count; the tensors are those that it works on."""
        return {"steps": self._steps, "moments": {name: list(moments) for name, moments in self._moments.items()}}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up saved moments.

        Raises:
            ValueError: if they belong to an SAE with other parameters.
        """
        found, expected = (
            {name: [m.shape for m in of[name]] for name in of} for of in (state["moments"], self._moments)
        )
        if found != expected:
            raise ValueError(f"expected moments of {expected}, got {found}; resume the run that saved them")
        self._steps = state["steps"]
        for name, moments in self._moments.items():
            for moment, saved in zip(moments, state["moments"][name], strict=True):
                moment.copy_(saved)

    def _gradients(self) -> dict[str, Tensor]:
        gradients = {}
        for name, parameter in self._sae.named_parameters():
            if parameter.grad is None:
                raise RuntimeError(f"{name} has no gradient: compute the gradients before the step")
            gradients[name] = parameter.grad
        return gradients

    def _clip(self, norm: float) -> float:
        """Factor on the gradient."""
        if not math.isfinite(norm):
            raise ValueError(f"the norm of the gradient became {norm}; lower lr or raise warmup_steps")
        return 1.0 if self._grad_clip is None else min(1.0, self._grad_clip / (norm + 1e-6))

    def _constrain(self, gradients: dict[str, Tensor]) -> None:
        """Replace the gradients of the rows by those with decay and without what the constraints take away."""
        enc, dec = self._sae.W_enc.T, self._sae.W_dec
        enc_gradient, dec_gradient = gradients["W_enc"].T.add(enc, alpha=self._decay), gradients["W_dec"]
        if self._aligned:
            enc_gradient = enc_gradient - (enc_gradient * dec).sum(1, keepdim=True) * dec
        if self._sae.unit_decoder:
            dec_gradient = dec_gradient - (dec_gradient * dec).sum(1, keepdim=True) * dec
        else:
            dec_gradient = dec_gradient.add(dec, alpha=self._decay)
        gradients.update(W_enc=enc_gradient.T, W_dec=dec_gradient)

    def _renormalise(self) -> None:
        """What the constraints demand of the rows after the update."""
        enc, dec = self._sae.W_enc.T, self._sae.W_dec
        if self._sae.unit_decoder:
            dec.div_(dec.norm(dim=1, keepdim=True).clamp_min(float(kernels.SMALLEST_LENGTH)))
        if self._aligned:
            enc.add_((1 - (enc * dec).sum(1, keepdim=True)) * dec)


class _RowUpdate:
    """The part of the update that belongs to encoder and decoder rows, by kernels."""

    def __init__(self, sae: TrainableSae, decay: float, aligned: bool):
        self._sae = sae
        self._constraints = (np.float32(decay), sae.unit_decoder, aligned)

    def squared_norm(self, gradients: dict[str, Tensor]) -> float:
        """Of the gradients of all rows, after decay and projections."""
        squared = np.empty(self._sae.d_sae, np.float32)
        with torch_threads(), np.errstate(over="ignore", invalid="ignore"):
            kernels.squared_norms(*self._rows(), *_by_feature(gradients), *self._constraints, squared)
        return float(squared.sum(dtype=np.float64))

    def update(
        self, gradients: dict[str, Tensor], moments: dict[str, tuple[Tensor, Tensor]], numbers: tuple[float, ...]
    ) -> None:
        """Adam and what the constraints demand after it; ``numbers`` as the kernel takes them."""
        four = [moment.numpy() for moment in (*(m.T for m in moments["W_enc"]), *moments["W_dec"])]
        settings = (*self._constraints, tuple(np.float32(number) for number in numbers))
        with torch_threads():
            kernels.update_rows(*self._rows(), *_by_feature(gradients), *four, *settings)

    def _rows(self) -> tuple[Float[np.ndarray, "d_sae d_in"], Float[np.ndarray, "d_sae d_in"]]:
        return self._sae.W_enc.detach().T.numpy(), self._sae.W_dec.detach().numpy()


def _by_feature(
    gradients: dict[str, Tensor],
) -> tuple[Float[np.ndarray, "d_sae d_in"], Float[np.ndarray, "d_sae d_in"]]:
    """Gradients of both matrices, row by row; contiguous, which a gradient of autograd need not be."""
    return gradients["W_enc"].T.contiguous().numpy(), gradients["W_dec"].contiguous().numpy()


def _squared_norm(gradient: Tensor) -> float:
    if gradient.device.type == "cpu":  # numpy's sum does not depend on the number of threads
        return float(gradient.square().numpy().sum(dtype=np.float64))
    return float(gradient.square().sum(dtype=torch.float64))
