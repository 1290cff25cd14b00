"""What requests will cost, what they have cost, and when to stop."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from sae_core.chat.messages import Conversation
from sae_core.config import OpenAIChat

_CHARACTERS_PER_TOKEN = 3.5
"""Of English text, rounded down: the tokenizer behind an endpoint is not known."""
_TOKENS_PER_TURN = 4
"""Marks of roles."""


@dataclass(frozen=True)
class Estimate:
    """What requests take, before any is made."""

    n_requests: int
    n_prompt_tokens: int
    """About."""
    n_reply_tokens: int
    """At most."""
    usd: float | None
    """At most; None without prices."""

    def text(self) -> str:
        """In words."""
        money = "" if self.usd is None else f", at most ${self.usd:,.2f}"
        return (
            f"{self.n_requests:,} requests, about {self.n_prompt_tokens:,} tokens of prompts and at most "
            f"{self.n_reply_tokens:,} of replies{money}"
        )


def text_tokens(text: str) -> int:
    """About how many tokens a text has."""
    return ceil(len(text) / _CHARACTERS_PER_TOKEN)


def prompt_tokens(conversation: Conversation) -> int:
    """About how many tokens a prompt has."""
    return sum(text_tokens(message.content) + _TOKENS_PER_TURN for message in conversation)


def price(settings: OpenAIChat, n_prompt_tokens: int, n_reply_tokens: int) -> float | None:
    """Dollars for so many tokens; None without prices."""
    prices = (settings.usd_per_million_prompt_tokens, settings.usd_per_million_reply_tokens)
    if prices[0] is None or prices[1] is None:
        return None
    return (n_prompt_tokens * prices[0] + n_reply_tokens * prices[1]) / 1e6


def estimate(conversations: Sequence[Conversation], settings: OpenAIChat) -> Estimate:
    """What these conversations take. Pass those without a reply in the store: the others cost nothing."""
    n_prompt = sum(map(prompt_tokens, conversations))
    n_reply = len(conversations) * settings.max_new_tokens
    return Estimate(len(conversations), n_prompt, n_reply, price(settings, n_prompt, n_reply))


class Budget:
    """Lets requests begin as long as what was spent and what is under way stay below the limits.

    The last request that begins may pass a limit; no other one does.
    """

    def __init__(self, settings: OpenAIChat, n_prompt_tokens: int = 0, n_reply_tokens: int = 0):
        self._settings = settings
        self.n_prompt_tokens, self.n_reply_tokens = n_prompt_tokens, n_reply_tokens
        self._pending_prompt = self._pending_reply = 0
        self._changed = asyncio.Condition()

    async def begin(self, n_prompt_tokens: int) -> bool:
        """Whether a request may begin; waits while that depends on those under way."""
        async with self._changed:
            while self._spent(self._pending_prompt, self._pending_reply):
                if self._spent(0, 0):
                    return False
                await self._changed.wait()
            self._pending_prompt += n_prompt_tokens
            self._pending_reply += self._settings.max_new_tokens
            return True

    async def end(self, expected_prompt_tokens: int, n_prompt_tokens: int, n_reply_tokens: int) -> None:
        """A request came to its end, and took so many tokens (zero where it failed)."""
        async with self._changed:
            self._pending_prompt -= expected_prompt_tokens
            self._pending_reply -= self._settings.max_new_tokens
            self.n_prompt_tokens += n_prompt_tokens
            self.n_reply_tokens += n_reply_tokens
            self._changed.notify_all()

    def _spent(self, prompt_more: int, reply_more: int) -> bool:
        n_prompt, n_reply = self.n_prompt_tokens + prompt_more, self.n_reply_tokens + reply_more
        most_tokens, most_usd = self._settings.budget_tokens, self._settings.budget_usd
        usd = price(self._settings, n_prompt, n_reply)
        too_many = most_tokens is not None and n_prompt + n_reply >= most_tokens
        return too_many or (most_usd is not None and usd is not None and usd >= most_usd)
