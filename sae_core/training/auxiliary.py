"""Gradients of the auxiliary loss that revives dead features, in closed form. Part of the training stage."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_core import encoder_products as products
from sae_core.architectures import Sae
from sae_core.training import sparse_kernels as kernels
from sae_core.training.closed_form import Nested, WeightGradients, by_feature, reconstruct
from sae_core.training.codes import Codes

CHUNK = 256
"""Tokens at once: a feature is active on many of them, and what it sums over lies in the cache."""


def add_auxiliary_gradients(
    sae: Sae,
    weights: WeightGradients,
    centred: Float[Tensor, "batch d_in"],
    residual: Float[Tensor, "batch d_in"],
    dead: Bool[Tensor, " d_sae"],
    aux_k: int,
    coefficient: float,
) -> float:
    """Add the gradients of ``coefficient * auxiliary_loss``; returns that loss.

    Args:
        centred: what the encoder sees.
        residual: ``x - x_hat``.
    """
    features = dead.nonzero().flatten()
    variance = float((residual - residual.mean(0)).pow(2).sum(-1).mean())
    if len(features) == 0 or variance == 0:
        return 0.0
    w_enc, b_enc, k = sae.W_enc.T[features], sae.b_enc[features], min(aux_k, len(features))
    loss = 0.0
    for x, target in zip(torch.split(centred, CHUNK), torch.split(residual, CHUNK), strict=True):
        pre, n_tokens = products.linear(x, w_enc, b_enc), len(x)
        codes = Codes(np.arange(n_tokens) * k, np.empty(n_tokens, np.int64), n_tokens * k)
        kernels.select_largest(pre.numpy(), features.numpy(), k, codes.end, codes.feature, codes.value)
        whole = Nested.whole(sae, coefficient / variance * n_tokens / len(residual))
        found = reconstruct(target, sae, codes, codes.value, whole)
        loss += float(whole.weight @ found.errors)
        weights.add(x, by_feature(codes, codes.value, found.by_code, sae.d_sae), found.gradient, whole)
    return loss
