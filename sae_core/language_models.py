"""A causal language model that is read at a hook point, and run with that point replaced.

First stage of the flow: language model + corpus -> activations. Any decoder-only transformers model works; a hook
point is a module path as in ``model.named_modules()``, and means the output of that module.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sae_core import hooks
from sae_core.config import LanguageModelConfig
from sae_core.devices import resolve_device
from sae_core.model_sources import load_pretrained, model_digest, skeleton
from sae_core.store import ArtifactStore

__all__ = ["LanguageModel", "load_language_model", "model_digest", "preflight"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_language_model(config: LanguageModelConfig, store: ArtifactStore) -> "LanguageModel":
    """Load a language model. A packaged GGUF file is converted into the store on the first call.

    Raises:
        FileNotFoundError, ModuleNotFoundError, ValueError, ConnectionError: if the source is missing or is not what
            was expected; the message says what to do.
    """
    device = resolve_device(config.device)
    digest = model_digest(config.source)
    model, tokenizer = load_pretrained(config.source, _DTYPES[config.dtype], store)
    return LanguageModel(model.to(device), tokenizer, digest)


def preflight(config: LanguageModelConfig, hooks_wanted: Sequence[str], store: ArtifactStore | None = None) -> None:
    """What can be known before long work: the source is there, and has these hook points. Reads no weights.

    Args:
        store: where a packaged model may have been converted already; reading its configuration there takes a
            moment, out of a GGUF file some seconds.

    Raises:
        FileNotFoundError, ModuleNotFoundError, ValueError, ConnectionError: if not; the message says what to do.
    """
    resolve_device(config.device)
    model = skeleton(config.source, store)
    for hook in hooks_wanted:
        hooks.check_hook(model, hook)


class LanguageModel:
    """A loaded causal language model with its tokenizer.

    Args:
        model: a transformers model with a language-model head.
        digest: identifies the weights and the tokenizer as read.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, digest: str):
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.digest = digest
        self._widths: dict[str, int] = {}

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where outputs come from."""
        device: torch.device = self.model.device
        return device

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return int(self.model.config.get_text_config().num_hidden_layers)

    @cached_property
    def special_token_ids(self) -> frozenset[int]:
        """Tokens that stand for no text: begin, end, padding, roles of a chat."""
        added = self.tokenizer.added_tokens_decoder.items()
        return frozenset(self.tokenizer.all_special_ids) | {i for i, token in added if token.special}

    def check_hook(self, hook: str) -> None:
        """Refuse a hook point that the model does not have.

        Raises:
            ValueError: with the range of layers, or near names.
        """
        hooks.check_hook(self.model, hook)

    def d_in(self, hook: str) -> int:
        """Width of a hook's output.

        Raises:
            ValueError: if the hook does not exist or gives no vector for each token.
        """
        if hook not in self._widths:
            self._widths[hook] = self.read(torch.zeros((1, 3), dtype=torch.long), hook).shape[-1]
        return self._widths[hook]

    def read(self, token_ids: Int[Tensor, "b l"], hook: str) -> Float[Tensor, "b l d"]:
        """Output of the hooked module, on the device and in the number format of the model.

        The forward pass ends there: later layers are never computed.

        Raises:
            ValueError: if the hook does not exist or gives no vector for each token.
        """
        return hooks.read_output(self.model, hook, token_ids.to(self.device, torch.long))

    @torch.no_grad()
    def token_losses(
        self,
        token_ids: Int[Tensor, "b l"],
        hook: str | None = None,
        replace: Callable[[Tensor], Tensor] | None = None,
    ) -> Float[Tensor, "b l-1"]:
        """Cross-entropy of every next token, in nats (float32): entry [i, t] is the loss on token t + 1.

        All contexts go through in one pass: the logits take ``b * l * vocabulary`` numbers, so pass few at a time.

        Args:
            hook: the module whose output ``replace`` changes.
            replace: from the module's output (b, l, d), as float32, to what stands in its place.

        Raises:
            ValueError: if the hook does not exist, or ``replace`` returns another shape.
        """
        ids = token_ids.to(self.device, torch.long)
        logits = hooks.logits_with(self.model, ids, hook, replace)
        # One context at a time: float32 logits of all of them would double the largest tensor of the pass.
        losses = [
            F.cross_entropy(row[:-1].float(), target[1:], reduction="none")
            for row, target in zip(logits, ids, strict=True)
        ]
        return torch.stack(losses)

    @torch.no_grad()
    def logit_directions(self) -> Float[Tensor, "d_model vocab"]:
        """Directions in the residual stream that promote each token: the logit lens (nostalgebraist 2020).

        The unembedding with the gain of the final norm folded in (and centred over the stream where that norm
        subtracts the mean). An approximation: the norm's division by the length of the stream, later layers, and
        soft-capping of logits are left out, so that only directions and rankings mean something.

        Raises:
            ValueError: if the model has no unembedding or no norm before it.
        """
        head = self.model.get_output_embeddings()
        if head is None:
            raise ValueError(f"{type(self.model).__name__} has no unembedding; load a model with a language-model head")
        gain, centred = _norm_gain(self._final_norm(head), self.d_model)
        directions: Tensor = head.weight.detach().float().T * gain[:, None]
        return directions - directions.mean(dim=0) if centred else directions

    def decode_token(self, token_id: int) -> str:
        """Text of one token, with the space before it where the token stands for one."""
        token = self.tokenizer.convert_ids_to_tokens(int(token_id))
        if isinstance(token, str) and token.startswith("▁"):  # SentencePiece: decoding one token loses its space
            return token.replace("▁", " ")
        return str(self.tokenizer.decode([int(token_id)], clean_up_tokenization_spaces=False))

    def _final_norm(self, head: nn.Module) -> nn.Module:
        """The last module before the unembedding whose weight is one gain for each dimension of the stream."""
        last: list[nn.Module] = []
        watched = [
            module
            for module in self.model.modules()
            if getattr(getattr(module, "weight", None), "shape", None) == (self.d_model,)
        ]
        handles = [module.register_forward_hook(lambda module, *_: last.append(module)) for module in watched]
        try:
            self.model(input_ids=torch.zeros((1, 2), dtype=torch.long, device=self.device), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        if not last:
            raise ValueError(
                f"{type(self.model).__name__} has no norm before its unembedding: the logit lens needs one"
            )
        return last[-1]


def _norm_gain(norm: nn.Module, width: int) -> tuple[Float[Tensor, " d_model"], bool]:
    """Gain of a norm layer for each dimension, and whether it subtracts the mean.

    Measured rather than read: some families store the gain (Llama, GPT-2), Gemma stores gain - 1. A vector of
    alternating +1 and -1 has mean 0 and mean square 1, so that the norm only multiplies it by its gain, and its
    bias cancels between that vector and its negative.
    """
    weight = norm.weight
    assert isinstance(weight, Tensor)
    probe = torch.ones(width, dtype=weight.dtype, device=weight.device)
    probe[1::2] = -1
    plus, minus = norm(probe[None])[0], norm(-probe[None])[0]
    gain = (plus.float() - minus.float()) / 2 * probe.float()
    # A shift by a constant far larger than the probe: a norm that subtracts the mean hardly sees it.
    shifted = norm(probe[None] + 8)[0].float()
    return gain, bool((shifted - plus.float()).norm() < 0.5 * (plus.float() - minus.float()).norm())
