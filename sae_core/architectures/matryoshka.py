"""Matryoshka BatchTopK SAE (Bussmann et al. 2025): every prefix of the dictionary reconstructs by itself."""

from dataclasses import replace
from itertools import accumulate
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.architectures.batch_topk import RunningThreshold
from sae_core.architectures.trainable import WITHOUT_WARMUP, Loss, Moment, SparseRule, squared_error


@final
class MatryoshkaBatchTopK(RunningThreshold):
    """BatchTopK codes; the loss is the mean of the weighted errors of nested dictionaries, the last being the whole.

    Group i begins where group i - 1 ends, and nested dictionary i consists of the groups up to i. Without weights each
    of n errors has the weight 1 / n before the mean is taken, as in dictionary_learning: aux-k counts n times as much
    beside them as it would beside their mean.
    """

    architecture = "matryoshka_batch_topk"

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        k: int,
        group_fractions: list[float],
        group_weights: list[float] | None = None,
        aux_k: int | None = None,
        aux_k_coefficient: float = 0.0,
        threshold_beta: float = 0.999,
        threshold_start_steps: int = 1000,
    ):
        super().__init__(d_in, d_sae, k, aux_k, aux_k_coefficient, threshold_beta, threshold_start_steps)
        sizes = [int(fraction * d_sae) for fraction in group_fractions[:-1]]
        self.group_sizes = [*sizes, d_sae - sum(sizes)]
        if min(self.group_sizes) < 1:
            raise ValueError(
                f"every group needs a feature: group_fractions={group_fractions} of d_sae={d_sae} give groups of "
                f"{self.group_sizes}; raise d_sae or the smallest fraction"
            )
        n = len(self.group_sizes)
        self.group_weights = [1 / n] * n if group_weights is None else group_weights
        if len(self.group_weights) != n:
            raise ValueError(f"group_weights needs {n} numbers, one a group: got {len(self.group_weights)}")

    def loss(self, x: Float[Tensor, "batch d_in"], moment: Moment = WITHOUT_WARMUP) -> Loss:
        """Mean over groups of weight times the error of the nested dictionary, plus aux-k on the whole."""
        pre = self.pre_activations(x)
        codes = self.batch_codes(pre)
        x_hat: Tensor = self.b_dec
        errors = []
        for part, rows in zip(
            torch.split(codes, self.group_sizes, dim=1), torch.split(self.W_dec, self.group_sizes), strict=True
        ):
            x_hat = x_hat + part @ rows
            errors.append(squared_error(x, x_hat))
        weights = torch.tensor(self.group_weights, dtype=x.dtype, device=x.device)
        nested = (weights * torch.stack(errors)).mean()
        return Loss(nested + self.auxiliary(pre, x - x_hat, moment), errors[-1], codes)

    def sparse_rule(self, moment: Moment) -> SparseRule:
        """The largest codes of a batch, in nested dictionaries."""
        weights = [weight / len(self.group_sizes) for weight in self.group_weights]
        nested = tuple(zip(accumulate(self.group_sizes), weights, strict=True))
        return replace(super().sparse_rule(moment), nested=nested)
