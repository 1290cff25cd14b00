"""What runs are trained on: batches in the space that they learn in, and the way back to activations as they are.

Part of the training stage.
"""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from sae_core.architectures import Sae
from sae_core.config import SaeConfig, TrainingConfig
from sae_core.prefetch import prefetched
from sae_core.shards import Shards
from sae_core.training.schedules import fitted_to
from sae_core.training.whitening import measure_whitening, read_whitening


class TrainingData:
    """The training text as the runs of one variant with one ``data_seed`` see it."""

    def __init__(
        self, shards: Shards, variant: SaeConfig, training: TrainingConfig, data_seed: int, folders: Iterable[Path]
    ):
        """Measures the whitening, if there is to be one and none of the ``folders`` has it already.

        Raises:
            ValueError: if the activations are all zero, there are too few of them, or they cannot be whitened.
        """
        if not shards.mean_squared_norm > 0:
            raise ValueError(f"activations have mean squared norm {shards.mean_squared_norm}: nothing to learn from")
        whole = training.data_fraction == 1
        self._source = shards if whole else shards.subset(training.data_fraction, data_seed)
        self.config = fitted_to(training, self._source.n_tokens)
        """The settings, with as many steps as the text allows."""
        self.d_in, self.n_tokens = shards.d_in, self._source.n_tokens
        self.whitening = None
        if variant.whiten:
            kept = (read_whitening(folder) for folder in folders)
            # Of all tokens, like the mean squared norm: runs that see other contexts still learn in one space.
            self.whitening = next((found for found in kept if found), None) or measure_whitening(shards)
        norm = self.whitening.mean_squared_norm if self.whitening else shards.mean_squared_norm
        self.scale = 1 / math.sqrt(norm)
        """Factor on the (whitened) activations that gives them unit mean squared norm."""

    def batches(self, order_seed: int, start: int) -> Iterator[Float[Tensor, "batch d_in"]]:
        """Batches from the one of step ``start`` on, as stored or whitened, made ahead by a thread."""
        return prefetched(lambda: self._batches(order_seed, start))

    def _batches(self, order_seed: int, start: int) -> Iterator[Float[Tensor, "batch d_in"]]:
        batches = self._source.batches(self.config.batch_size, order_seed, start)
        return map(self.whitening.apply, batches) if self.whitening else batches

    def folded(self, sae: Sae) -> Sae:
        """An SAE of what was trained on as one of activations as they are; in place."""
        sae.fold_scale(self.scale)
        return self.whitening.fold(sae) if self.whitening else sae
