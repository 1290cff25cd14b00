"""Gradients of an SAE's loss on one batch: by autograd (the reference), or in closed form and much faster on a CPU.

Both fill ``.grad`` and return the same numbers; the tests hold them equal. Part of the training stage.
"""

import torch

from sae_core.architectures import WITHOUT_WARMUP, Gated, JumpReLU, TrainableSae
from sae_core.training.autograd import AutogradGradients, BatchNumbers, Gradients
from sae_core.training.gated import GatedGradients
from sae_core.training.jumprelu import JumpReLUGradients
from sae_core.training.rectified import RectifiedGradients


def choose_gradients(sae: TrainableSae, reference: bool = False) -> Gradients:
    """The closed form where the architecture has one and the SAE lies on a CPU in float32, else autograd.

    The choice depends on the SAE and its device alone, so that equal runs give equal bits.
    """
    on_cpu = sae.W_dec.device.type == "cpu" and sae.W_dec.dtype == torch.float32
    if reference or not on_cpu or sae.conventions != sae.trained_with:
        return AutogradGradients(sae)
    if isinstance(sae, Gated):
        return GatedGradients(sae)
    if isinstance(sae, JumpReLU):
        return JumpReLUGradients(sae)
    return AutogradGradients(sae) if sae.sparse_rule(WITHOUT_WARMUP) is None else RectifiedGradients(sae)


__all__ = ["AutogradGradients", "BatchNumbers", "Gradients", "choose_gradients"]
