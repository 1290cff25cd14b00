"""What an explainer gets to see of a feature: telling words, marked contexts, words promoted by the logit lens.

Place in the flow: feature contexts -> **feature words** -> explainers.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.architectures import Sae
from sae_core.config import ExplanationsConfig
from sae_core.corpus import ContextSplit
from sae_core.feature_contexts import N_HALVES, FeatureContexts
from sae_core.language_models import LanguageModel
from sae_core.words import Segmenter, Words

_LOGIT_BLOCK = 1 << 26
"""Logits (features x vocabulary) of one block: 256 MiB in float32."""


def telling_words(
    evidence: FeatureContexts, words: Words, feature: int, half: int, n: int, min_score: float = 0.0
) -> list[str]:
    """At most n words that tell most about where a feature fires, the most telling first.

    A word's score is its part of the Kullback-Leibler divergence between the words the feature fires on (weighted by
    activation) and those of the corpus: ``p log(p / q)``, a tf-idf whose idf is ``-log q``.

    Args:
        feature: index into ``evidence.features``.
        min_score: words that score less than this share of the best are left out, in [0, 1).
    """
    slot = N_HALVES * feature + half
    entries = slice(evidence.word_weights.indptr[slot], evidence.word_weights.indptr[slot + 1])
    found, weight = evidence.word_weights.indices[entries], evidence.word_weights.data[entries]
    if len(found) == 0:
        return []
    share = weight / weight.sum()
    # Every word counts once more than it was seen, so that one seen only here is no miracle.
    expected = (words.counts[found] + 1) / (words.counts.sum() + len(words))
    score = share * np.log(share / expected)
    order = np.lexsort((found, -score))[:n]
    best = score[order[0]]
    return [words.texts[found[i]] for i in order if score[i] > 0 and score[i] >= min_score * best]


def marked_contexts(
    evidence: FeatureContexts,
    contexts: ContextSplit,
    segmenter: Segmenter,
    feature: int,
    half: int,
    config: ExplanationsConfig,
) -> list[str]:
    """The strongest contexts as text, the word with the strongest token marked «so», whole words, one document."""
    found = []
    strongest = zip(evidence.row[feature, half], evidence.position[feature, half], strict=True)
    for row, position in list(strongest)[: config.n_examples]:
        if row >= 0:
            found.append(
                _mark(contexts.token_ids[row], contexts.document_ids[row], int(position), segmenter, config.window)
            )
    return found


def _mark(token_ids: np.ndarray, documents: np.ndarray, position: int, segmenter: Segmenter, window: int) -> str:
    starts = np.append(np.flatnonzero(segmenter.starts(token_ids[None])[0]), len(token_ids))
    # The run of tokens of the same document around the position.
    breaks = np.flatnonzero(np.diff(documents)) + 1
    inside = int(np.searchsorted(breaks, position, side="right"))
    low = int(breaks[inside - 1]) if inside else 0
    high = int(breaks[inside]) if inside < len(breaks) else len(token_ids)
    word = int(np.searchsorted(starts, position, side="right")) - 1
    begin, end = max(low, int(starts[word])), min(high, int(starts[word + 1]))
    first = max(low, int(starts[np.searchsorted(starts, max(low, position - window))]))
    last = min(high, int(starts[np.searchsorted(starts, min(high, position + window + 1), side="right") - 1]))
    first, last = min(first, begin), max(last, end)
    # Differences of longer decodings, since SentencePiece drops a space at the beginning of what it decodes.
    whole, upto, before = (segmenter.decode(token_ids[first:stop]) for stop in (last, end, begin))
    marked = upto[len(before) :]
    text = marked.strip()
    lead = marked[: len(marked) - len(marked.lstrip())]
    tail = marked[len(marked.rstrip()) :] if text else ""
    return f"{before}{lead}«{text}»{tail}{whole[len(upto) :]}".strip()


@torch.no_grad()
def promoted_words(
    sae: Sae, model: LanguageModel, segmenter: Segmenter, features: Int[np.ndarray, " n"], n: int
) -> list[list[str]]:
    """The n whole words whose logits each feature raises most (the logit lens, ``W_dec W_U``), the strongest first.

    Empty where the SAE does not write into the residual stream (its width is another). Tokens that are pieces of
    words say little by themselves and are left out.
    """
    if sae.d_in != model.d_model or len(features) == 0:
        return [[] for _ in features]
    directions = model.logit_directions()
    tokens = np.arange(min(len(model.tokenizer), directions.shape[1]))  # embeddings may be padded
    tokens = tokens[segmenter.whole_words(tokens)]
    directions = directions[:, torch.from_numpy(tokens).to(directions.device)]
    texts = [model.decode_token(int(token)).strip() for token in tokens]
    found = []
    size = max(1, _LOGIT_BLOCK // len(tokens))
    for start in range(0, len(features), size):
        rows: Float[Tensor, "b d"] = sae.W_dec[torch.from_numpy(features[start : start + size])]
        logits = rows.to(directions.device, directions.dtype) @ directions
        # Several spellings of a word may lead; three times as many are enough to fill the list.
        for best in logits.topk(min(3 * n, len(tokens)), dim=1).indices.cpu().tolist():
            spellings = {texts[i].casefold(): texts[i] for i in reversed(best)}
            ranked = dict.fromkeys(texts[i].casefold() for i in best)
            found.append([spellings[key] for key in ranked][:n])
    return found
