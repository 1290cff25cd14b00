"""BatchTopK SAE (Bussmann et al. 2024): k codes a token on average over a batch, and a learned threshold in use."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.architectures.base import Sae
from sae_core.architectures.jumprelu import JumpReLU
from sae_core.architectures.selecting import SelectingSae
from sae_core.architectures.trainable import (
    WITHOUT_WARMUP,
    Loss,
    Moment,
    SparseRule,
    copied_into,
    keep_largest,
    squared_error,
)


class RunningThreshold(SelectingSae):
    """The part that BatchTopK and Matryoshka share: which codes are kept while training, and in use.

    While training, the ``k * batch`` largest rectified pre-activations of a batch. In use, those above ``threshold``:
    a running mean of the smallest code kept, from ``threshold_start_steps`` on, or from half of the steps where that
    is earlier. Before, it is -1.
    """

    in_activation_units = ("b_enc", "b_dec", "threshold")
    observes = True
    threshold: Tensor
    """Scalar; negative before it starts, when every positive code is kept in use."""

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        k: int,
        aux_k: int | None = None,
        aux_k_coefficient: float = 0.0,
        threshold_beta: float = 0.999,
        threshold_start_steps: int = 1000,
    ):
        super().__init__(d_in, d_sae, k, aux_k, aux_k_coefficient)
        self.threshold_beta, self.threshold_start_steps = threshold_beta, threshold_start_steps
        self.register_buffer("threshold", torch.tensor(-1.0))

    def activate(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """Codes in use: each token by itself."""
        return pre.relu() * (pre > self.threshold)

    def batch_codes(self, pre: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        """Codes while training: the tokens of a batch compete."""
        return keep_largest(pre.relu().flatten(), self.k * len(pre)).reshape(pre.shape)

    def sparse_rule(self, moment: Moment) -> SparseRule:
        """The largest codes of a batch."""
        return SparseRule(k=self.k, over_batch=True, aux_k=self.aux_k, aux_coefficient=self.aux_k_coefficient)

    @torch.no_grad()
    def observe(self, values: Float[Tensor, " n_active"], n_tokens: int, moment: Moment) -> None:
        """Move the threshold towards the smallest code of the batch."""
        if moment.step <= min(self.threshold_start_steps, moment.n_steps // 2):
            return
        smallest = values.min() if len(values) else values.new_zeros(())
        if self.threshold < 0:
            self.threshold.copy_(smallest)
        else:
            self.threshold.lerp_(smallest.to(self.threshold), 1 - self.threshold_beta)

    def watched(self) -> dict[str, float]:
        """The threshold."""
        return {"threshold": float(self.threshold)}

    @torch.no_grad()
    def finished(self) -> Sae:
        """A JumpReLU SAE, all of whose features have the same threshold."""
        sae = JumpReLU(self.d_in, self.d_sae, conventions=self.conventions)
        copied_into(sae, self)
        sae.threshold.fill_(float(self.threshold))
        return sae


@final
class BatchTopK(RunningThreshold):
    """See ``RunningThreshold``."""

    architecture = "batch_topk"

    def loss(self, x: Float[Tensor, "batch d_in"], moment: Moment = WITHOUT_WARMUP) -> Loss:
        """Reconstruction error plus aux-k."""
        pre = self.pre_activations(x)
        codes = self.batch_codes(pre)
        x_hat = self.decode(codes)
        error = squared_error(x, x_hat)
        return Loss(error + self.auxiliary(pre, x - x_hat, moment), error, codes)
