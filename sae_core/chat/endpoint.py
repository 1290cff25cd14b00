"""One request to an endpoint that speaks OpenAI's chat protocol.

The SDK tries again after refused connections, time-outs, 408, 409, 429 and 5xx, with growing pauses or the one that the
server asks for (``Retry-After``).
"""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from sae_core.chat.endpoint_replies import Answer, Failure, read_body, read_refusal
from sae_core.chat.keys import is_local, read_key
from sae_core.chat.messages import Conversation
from sae_core.chat.requests import Request
from sae_core.config import OpenAIChat

_LONGEST_PAUSE_S = 120.0
"""The longest ``Retry-After`` that the SDK honours."""
_CHOICE_TOKENS = 16
"""Tokens of a reply that is to be one of some options: the first counts, the others finish the word."""
_MAX_READ = 10_000
"""Characters of a refusal that are looked at."""


@dataclass(frozen=True)
class Dialect:
    """What an endpoint does not take, as far as it has said so."""

    limit: str = "max_tokens"
    """Hosted reasoning models take ``max_completion_tokens`` instead."""
    gives_probabilities: bool = True

    def after(self, refusal: str) -> "Dialect | None":
        """How to ask again after HTTP 400 that names a parameter; None if nothing can be left out."""
        if self.gives_probabilities and "logprobs" in refusal:
            return replace(self, gives_probabilities=False)
        if self.limit == "max_tokens" and "max_completion_tokens" in refusal:
            return replace(self, limit="max_completion_tokens")
        return None


class Endpoint:
    """A connection, open inside ``async with``.

    Raises:
        ValueError: if there is no key and the endpoint is not on this machine.
    """

    def __init__(self, settings: OpenAIChat, dialect: Dialect):
        self.dialect = dialect
        self._settings, self._key = settings, read_key(settings)
        tries = settings.max_retries + 1
        # The time-out of the SDK starts anew with every byte that comes; this one does not.
        self._longest_s = tries * settings.timeout_s + settings.max_retries * _LONGEST_PAUSE_S
        self._open = AsyncExitStack()
        self._client: Any = None

    async def __aenter__(self) -> Self:
        import openai

        # On this machine a proxy has nothing to do.
        transport = openai.DefaultAsyncHttpxClient(trust_env=not is_local(self._settings.base_url))
        client = openai.AsyncOpenAI(
            api_key=self._key or "none",  # the SDK insists on one, and would take OPENAI_API_KEY
            base_url=self._settings.base_url,
            timeout=self._settings.timeout_s,
            max_retries=self._settings.max_retries,
            http_client=transport,
        )
        self._client = await self._open.enter_async_context(client)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()

    async def ask(self, request: Request) -> Answer | Failure:
        """Its reply, asked again in other words where the endpoint does not take a parameter."""
        while True:
            asked = self.dialect
            answer, refusal = await self._ask_once(request, asked)
            simpler = asked.after(refusal) if isinstance(answer, Failure) and answer.reason == "HTTP 400" else None
            if simpler is None:
                return answer
            self.dialect = simpler

    async def _ask_once(self, request: Request, dialect: Dialect) -> tuple[Answer | Failure, str]:
        """The reply, or why there is none and what the server said about it."""
        import openai

        try:
            async with asyncio.timeout(self._longest_s):
                raw = await self._client.chat.completions.with_raw_response.create(**self._body(request, dialect))
            answer = read_body(raw.text)
        except (openai.APITimeoutError, TimeoutError):
            return Failure("timed out"), ""
        except openai.APIStatusError as error:
            refusal = str(error.body)[:_MAX_READ]
            return read_refusal(error.status_code, refusal), refusal
        except openai.APIConnectionError:
            return Failure("the endpoint could not be reached"), ""
        except (openai.OpenAIError, UnicodeError):
            return Failure("the reply could not be read"), ""
        if isinstance(answer, Answer) and self._key is not None and self._key in answer.text:
            return Failure("the reply repeats the key"), ""
        return answer, ""

    def _body(self, request: Request, dialect: Dialect) -> dict[str, Any]:
        settings, choice = self._settings, request.options is not None
        asked = {
            "model": settings.model,
            "messages": _turns(request.conversation),
            dialect.limit: min(settings.max_new_tokens, _CHOICE_TOKENS) if choice else settings.max_new_tokens,
            "temperature": settings.temperature,
            "seed": settings.seed,
            "stop": None if request.stop is None else [request.stop],
            "logprobs": True if choice and dialect.gives_probabilities else None,
            "top_logprobs": 20 if choice and dialect.gives_probabilities else None,
        }
        return {name: value for name, value in asked.items() if value is not None}


def _turns(conversation: Conversation) -> list[dict[str, str]]:
    """Turns of the chat protocol; it has no text to be continued, so that a ``text`` is what the user says."""
    return [
        {"role": "user" if message.role == "text" else message.role, "content": message.content}
        for message in conversation
    ]
