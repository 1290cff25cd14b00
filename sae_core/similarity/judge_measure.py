"""``judge:<explainer>``: how alike a language model finds two explanations, from 1 to 10."""

import re
from collections.abc import Mapping, Sequence
from typing import final

import numpy as np
from jaxtyping import Bool, Int64

from sae_core.chat.messages import ChatModel, Conversation, Missing, Reply
from sae_core.chat.prompts import load_prompt
from sae_core.progress import Progress
from sae_core.similarity.across_halves import missing_reason
from sae_core.similarity.explained import Explained
from sae_core.similarity.measures import FeaturePairs, Kind, Scores, missing

_UNREADABLE = Missing("the rating could not be read")
_OUT_OF_TEN = re.compile(r"\s*(?:/|out of)\s*10\b")
_NUMBER = re.compile(r"[-+]?\d+(?:[.,]\d+)?")


@final
class JudgeMeasure:
    """The mean of a model's ratings of two explanations in both orders, in [1, 10].

    Models prefer what stands first or last, so a pair is rated in both orders, and is missing unless both ratings can
    be read. A's explanation from half 0 is compared with B's from half 1, or where these are not there, A's from half 1
    with B's from half 0: one of the two, since every rating is paid for.
    """

    kind: Kind = "judge"
    explainer: str | None
    costly = True

    def __init__(self, explained: Explained, judge: ChatModel) -> None:
        self.explainer = explained.explainer
        self.name = f"{self.kind}:{self.explainer}"
        self._explained = explained
        self._judge = judge
        self._prompt = load_prompt("judge")

    def score(self, pairs: Sequence[FeaturePairs], progress: Progress) -> list[Scores]:
        """The ratings of all pairs of features; every conversation is asked once."""
        asked: dict[Conversation, int] = {}
        found, places = [], []
        for pair in pairs:
            texts, reason = self._texts(pair)
            places.append([self._ask(first, second, asked) for first, second in texts])
            found.append(Scores(np.full(len(reason), np.nan), reason))
        replies = self._judge.complete(list(asked), progress=progress)
        ratings = [read_rating(reply) for reply in replies]
        for scores, wanted in zip(found, places, strict=True):
            for row, both in zip(np.flatnonzero(~missing(scores.reason)).tolist(), wanted, strict=True):
                here = [ratings[place] for place in both]
                failed = [rating.reason for rating in here if isinstance(rating, Missing)]
                scores.value[row] = np.nan if failed else np.mean([r for r in here if not isinstance(r, Missing)])
                scores.reason[row] = failed[0] if failed else None
        return found

    def known(self, run: str, features: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Which features have an explanation."""
        return np.asarray((self._explained.slots[run].of(features)[0] >= 0).any(axis=1))

    def ceiling(self, used: Mapping[str, Int64[np.ndarray, " _"]]) -> None:
        """None: it would cost as many ratings again."""

    def _texts(self, pair: FeaturePairs) -> tuple[list[tuple[str, str]], np.ndarray]:
        """Both texts of every pair that has them, and the reasons of all pairs why not."""
        slots, texts = self._explained.slots, self._explained.texts
        (a, reason_a), (b, reason_b) = slots[pair.run_a].of(pair.left), slots[pair.run_b].of(pair.right)
        reason = missing_reason(reason_a, reason_b)
        found = []
        for row in np.flatnonzero(~missing(reason)).tolist():
            half = 0 if a[row, 0] >= 0 and b[row, 1] >= 0 else 1
            found.append((texts[a[row, half]], texts[b[row, 1 - half]]))
        return found, reason

    def _ask(self, first: str, second: str, asked: dict[Conversation, int]) -> tuple[int, int]:
        """Places of the two conversations about these texts, put at the end where they are new."""
        forward = asked.setdefault(self._prompt.fill(first=first, second=second), len(asked))
        backward = asked.setdefault(self._prompt.fill(first=second, second=first), len(asked))
        return forward, backward


def read_rating(reply: Reply | Missing) -> float | Missing:
    """The rating in a reply: the only number of its first line ("7", "Rating: 7.", "7/10", "7 out of 10").

    A line with several numbers could mean any of them, and a number beyond 1 to 10 none: both are missing.
    """
    if isinstance(reply, Missing):
        return reply
    lines = [line for line in reply.text.splitlines() if line.strip()]
    if not lines:
        return Missing("the reply is empty")
    numbers = _NUMBER.findall(_OUT_OF_TEN.sub("", lines[0]))
    if len(numbers) != 1:
        return _UNREADABLE
    rating = float(numbers[0].replace(",", "."))
    return rating if 1 <= rating <= 10 else _UNREADABLE
