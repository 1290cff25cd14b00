"""Words that features make likelier: the logit lens."""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sae_core.architectures import Sae
from sae_core.language_models import LanguageModel
from sae_core.words import Segmenter

_LOGIT_BLOCK = 1 << 26
"""Logits (features x vocabulary) of one block: 256 MiB in float32."""


@torch.no_grad()
def promoted_words(
    sae: Sae, model: LanguageModel, segmenter: Segmenter, features: Int64[np.ndarray, " n"], n_words: int
) -> list[list[str]]:
    """The whole words whose logits each feature raises most (the logit lens, ``W_dec W_U``), the strongest first.

    Empty where the SAE does not write into the residual stream (its width is another). Tokens that are pieces of
    words say little by themselves and are left out.
    """
    if sae.d_out != model.d_model or len(features) == 0 or n_words == 0:
        return [[] for _ in features]
    directions = model.logit_directions()
    tokens, texts = _whole_words(segmenter, min(len(model.tokenizer), directions.shape[1]))  # may be padded
    directions = directions[:, torch.from_numpy(tokens).to(directions.device)]
    found: list[list[str]] = []
    size = max(1, _LOGIT_BLOCK // max(1, len(tokens)))
    for start in range(0, len(features), size):
        rows: Float[Tensor, "b d"] = sae.W_dec[torch.from_numpy(features[start : start + size])]
        logits = rows.to(directions.device, directions.dtype) @ directions
        best = logits.topk(min(n_words, len(tokens)), dim=1).indices.cpu().tolist()
        found += [[texts[i] for i in row] for row in best]
    return found


@lru_cache(maxsize=1)
def _whole_words(segmenter: Segmenter, n_tokens: int) -> tuple[Int64[np.ndarray, " n"], list[str]]:
    """Tokens that are a word or the beginning of one, and their texts; of several spellings of a word the first.

    Tokenizers number frequent tokens first. Takes seconds, and is the same for all runs.
    """
    tokens = np.arange(n_tokens)
    first: dict[str, tuple[int, str]] = {}
    for token in tokens[segmenter.whole_words(tokens)].tolist():
        text = segmenter.decode([token]).strip()
        first.setdefault(text.casefold(), (token, text))
    return np.array([token for token, _ in first.values()], np.int64), [text for _, text in first.values()]
