"""Explanations without a model: rules about words and characters, found in the codes of one half of the text.

Place in the flow: feature contexts -> **lexical explanations** -> scores -> similarity. The text has no label that all
explanations would share, since a sentence embedder would find them all alike for it.
"""

from collections.abc import Sequence
from typing import final

import numpy as np
from jaxtyping import Float32, Int64

from sae_core import config
from sae_core.chat.messages import Missing
from sae_core.explaining.attributes import TokenAttributes
from sae_core.explaining.clauses import SPELLINGS, Clause
from sae_core.explaining.explanations import Explanation
from sae_core.explaining.rule_search import RuleSearch
from sae_core.explaining.rules import Rule
from sae_core.feature_contexts import FeatureContexts
from sae_core.held_out_text import HeldOutText
from sae_core.progress import Progress, silent

NO_RULE = Missing("no clause tells where it fires")
_N_SPELLED = 3
_MOST = 0.5
"""``words beginning with "isl-"`` is told as "island, islands": by its heaviest words, which say more to a sentence
embedder. Unless they have most of its activation, the phrase follows."""
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
        """First the words it fires on, then what else the rule says: ``dog, horse, after "the", numbers``."""
        words: list[str] = []
        phrases: list[str] = []
        for clause in rule.clauses:
            if clause.kind == "now":
                words.append(clause.value)
            elif clause.kind in SPELLINGS:
                spelled, share = self._spelled(clause, tokens, activations)
                words += spelled
                phrases += [clause.text()] * (share < _MOST)
            else:
                phrases.append(clause.text())
        return list(dict.fromkeys(words + phrases))

    def _spelled(self, clause: Clause, tokens: np.ndarray, activations: np.ndarray) -> tuple[list[str], float]:
        """The words behind a clause that says how they are spelled, and their share of its activation."""
        matching = self._attributes.matches(clause.kind, clause.value, tokens)
        words, index = np.unique(self._text.word[tokens[matching]], return_inverse=True)
        mass = np.bincount(index, weights=activations[matching])
        heaviest = np.argsort(-mass, kind="stable")[:_N_SPELLED]
        return [self._text.words.texts[word] for word in words[heaviest]], float(mass[heaviest].sum() / mass.sum())

    def _search(self, half: int) -> RuleSearch:
        if half not in self._searches:
            looked_at = self._contexts.looked_at
            self._searches[half] = RuleSearch(self._attributes, looked_at[self._text.half[looked_at] == half])
        return self._searches[half]
