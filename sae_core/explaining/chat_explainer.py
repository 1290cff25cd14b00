"""Explanations written by a model that reads what a feature fires on."""

from collections.abc import Sequence
from typing import final

from sae_core.chat.messages import ChatModel, Conversation, Missing, Reply
from sae_core.chat.prompts import load_prompt
from sae_core.chat.requests import LONG_PROMPT
from sae_core.config import LocalExplainer, OpenAIExplainer
from sae_core.explaining.answers import read_category, read_explanation
from sae_core.explaining.evidence import choose_examples, list_words, show_examples
from sae_core.explaining.explanations import Explanation
from sae_core.feature_contexts.contexts import FeatureContexts
from sae_core.held_out_text import HeldOutText
from sae_core.progress import Progress, silent

NO_WORDS = Missing("no telling word")
NO_EXAMPLES = Missing("no example in which the feature is active")

Slot = tuple[int, int]


@final
class ChatExplainer:
    """Asks a model for a short phrase, from marked examples or from a list of words.

    Where examples are more than the model takes, half as many are tried, and so on down to one.
    """

    def __init__(
        self,
        settings: LocalExplainer | OpenAIExplainer,
        chat: ChatModel,
        contexts: FeatureContexts,
        text: HeldOutText,
    ):
        self.name = settings.name
        self._settings, self._chat, self._contexts, self._text = settings, chat, contexts, text

    def explain(self, slots: Sequence[Slot], progress: Progress = silent) -> list[Explanation | Missing]:
        """An explanation, or the reason why there is none, for each slot, in their order.

        Raises:
            ChatUnavailable: if too many requests failed for the endpoint's reasons.
        """
        if self._settings.prompt == "word_list":
            return self._from_words(slots, progress)
        return self._from_examples(slots, progress)

    def _from_words(self, slots: Sequence[Slot], progress: Progress) -> list[Explanation | Missing]:
        prompt, n = load_prompt("word_list"), self._settings.n_words
        lists = [list_words(self._contexts, place, half, n) for place, half in slots]
        asked = [i for i, words in enumerate(lists) if words]
        conversations = [prompt.fill(words=", ".join(lists[i])) for i in asked]
        found: list[Explanation | Missing] = [NO_WORDS] * len(slots)
        for i, reply in zip(asked, self._chat.complete(conversations, stop="\n", progress=progress), strict=True):
            found[i] = reply if isinstance(reply, Missing) else _explanation(read_category(reply), reply)
        return found

    def _from_examples(self, slots: Sequence[Slot], progress: Progress) -> list[Explanation | Missing]:
        found: list[Explanation | Missing] = [NO_EXAMPLES] * len(slots)
        n, left = self._settings.n_examples, list(range(len(slots)))
        while left:
            shown = {i: prompt for i in left if (prompt := self._show(slots[i], n)) is not None}
            for (i, prompt), reply in zip(
                shown.items(), self._chat.complete(list(shown.values()), progress=progress), strict=True
            ):
                found[i] = reply if isinstance(reply, Missing) else _explanation(read_explanation(reply, prompt), reply)
            left = [i for i in shown if n > 1 and found[i] == Missing(LONG_PROMPT)]
            n //= 2
        return found

    def _show(self, slot: Slot, n: int) -> Conversation | None:
        """The prompt with at most so many examples of a feature; None if it has none."""
        place, half = slot
        examples = choose_examples(self._contexts.examples(place, half), n)
        if not examples:
            return None
        largest = float(self._contexts.max_activation[place, half])
        return load_prompt("explain").fill(examples=show_examples(examples, largest, self._text))


def _explanation(answer: str | Missing, reply: Reply) -> Explanation | Missing:
    if isinstance(answer, Missing):
        return answer
    return Explanation(answer, prompt_digest=reply.digest, reply=reply.text)
