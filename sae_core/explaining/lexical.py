"""Explanations without a model: rules about words and characters, found in the codes of one half of the text.

Place in the flow: feature contexts -> **lexical explanations** -> scores -> similarity. The rule is what is run; the
text lists words and phrases, without a label that all explanations would share: a sentence embedder would find them all
alike for it.
"""

from collections.abc import Sequence
from typing import final

import numpy as np
from jaxtyping import Float32, Int64

from sae_core import config
from sae_core.chat.messages import Missing
from sae_core.explaining.attributes import TokenAttributes
from sae_core.explaining.clauses import WORD_KINDS
from sae_core.explaining.explanations import Explanation
from sae_core.explaining.rule_search import RuleSearch
from sae_core.explaining.rules import Rule
from sae_core.feature_contexts import FeatureContexts
from sae_core.held_out_text import HeldOutText
from sae_core.progress import Progress, silent

NO_RULE = Missing("no clause tells where it fires")
_N_WORDS = 8
"""Words of a text. ``words beginning with "isl-"`` is told as "island, islands": words say more to a sentence embedder
than how they are spelled, and more to a reader where most clauses mean one or two words."""
_REPORT_EVERY = 256


@final
class LexicalExplainer:
    """Explains features by rules.

    Args:
        contexts: where the features fire.
        text: the held-out text that they were collected from.
        attributes: of the same text; made here if they are not given.
    """

    def __init__(
        self,
        settings: config.LexicalExplainer,
        contexts: FeatureContexts,
        text: HeldOutText,
        attributes: TokenAttributes | None = None,
    ):
        self.name, self.settings = settings.name, settings
        self._contexts, self._text = contexts, text
        self._attributes = TokenAttributes(text) if attributes is None else attributes
        self._searches: dict[int, RuleSearch] = {}

    def explain(self, slots: Sequence[tuple[int, int]], progress: Progress = silent) -> list[Explanation | Missing]:
        """An explanation, or the reason why there is none, for each slot, in their order."""
        found = []
        for done, (place, half) in enumerate(slots, 1):
            found.append(self._explain(place, half))
            if done % _REPORT_EVERY == 0 or done == len(slots):
                progress(done, len(slots), f"{done:,} of {len(slots):,} rules found")
        return found

    def _explain(self, place: int, half: int) -> Explanation | Missing:
        tokens, activations = self._contexts.codes(place)
        here = self._text.half[tokens] == half
        tokens, activations = tokens[here], activations[here]
        rule = self._search(half).find(tokens, activations, self.settings.n_clauses)
        if rule is None:
            return NO_RULE
        promoted = self._contexts.promoted[place][: self.settings.n_promoted]
        return Explanation(", ".join([*self._describe(rule, tokens, activations), *promoted]), rule)

    def _describe(
        self, rule: Rule, tokens: Int64[np.ndarray, " n"], activations: Float32[np.ndarray, " n"]
    ) -> list[str]:
        """Words that clauses about words stand for, then the other clauses: ``dog, horse, after "the", numbers``."""
        about_words = Rule(tuple(clause for clause in rule.clauses if clause.kind in WORD_KINDS))
        meant = about_words.predict(self._attributes, tokens) > 0
        words = self._telling_words(tokens[meant], activations[meant])
        return words + [clause.text() for clause in rule.clauses if clause.kind not in WORD_KINDS]

    def _telling_words(self, tokens: np.ndarray, activations: np.ndarray) -> list[str]:
        """The words with the largest ``share * log(share / expected)``: their parts of the divergence from the corpus.

        Shares are of the squared activation: what a feature fires on weakly says little about it.
        """
        words, index = np.unique(self._text.word[tokens], return_inverse=True)
        weight = np.bincount(index, weights=activations.astype(np.float64) ** 2)
        share = weight / weight.sum()
        counts = self._text.words.counts
        # Every word counts once more than it was seen, so that one seen only here is no miracle.
        score = share * np.log(share * (counts.sum() + len(counts)) / (counts[words] + 1))
        best = np.argsort(-score, kind="stable")[:_N_WORDS]
        return [self._text.words.texts[words[i]] for i in best if score[i] > 0]

    def _search(self, half: int) -> RuleSearch:
        if half not in self._searches:
            looked_at = self._contexts.looked_at
            self._searches[half] = RuleSearch(self._attributes, looked_at[self._text.half[looked_at] == half])
        return self._searches[half]
