"""A model behind an endpoint that speaks OpenAI's chat protocol: vLLM, Ollama, a llama.cpp server, or a hosted one.

Bounded concurrency, a budget, and replies kept by content as they come: what a killed or refused run has paid for is
there for the next one.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import final

from sae_core import config
from sae_core.chat.budget import Budget, estimate, price, prompt_tokens, text_tokens
from sae_core.chat.endpoint import Dialect, Endpoint
from sae_core.chat.endpoint_replies import Answer, Failure, weigh_options
from sae_core.chat.keys import place, read_key
from sae_core.chat.messages import ChatUnavailable, Conversation, Missing, Reply, Usage
from sae_core.chat.replies import ReplyStore, StoredReply, as_reply, read_choice
from sae_core.chat.requests import Request, add_usage, make_requests, split_by_store
from sae_core.progress import Progress, silent
from sae_core.store import digest_json

_IN_A_ROW = 20
"""So many failures without a reply between them: the endpoint is down."""
_FATAL = (401, 403, 404)
"""What no further try can change."""
SPENT = Missing("the budget was spent")


@final
class OpenAIChatModel:
    """Replies of an endpoint.

    Args:
        replies: where they are kept.

    Raises:
        ValueError: if there is no key in the environment and the endpoint is not on this machine.
    """

    def __init__(self, settings: config.OpenAIChat, replies: ReplyStore):
        read_key(settings)
        self.usage = Usage()
        self._settings, self._replies, self._dialect = settings, replies, Dialect()
        decides = {"model", "base_url", "temperature", "seed", "max_new_tokens"}
        self.digest = digest_json({"kind": "openai"} | settings.model_dump(mode="json", include=decides))

    def complete(
        self, conversations: Sequence[Conversation], stop: str | None = None, progress: Progress = silent
    ) -> list[Reply | Missing]:
        """A reply to each conversation, in their order; see ``ChatModel``."""
        requests = make_requests(self.digest, conversations, stop)
        answers = self._answer(requests, progress)
        return [
            answer if isinstance(answer, Missing) else as_reply(request.digest, answer)
            for request, answer in zip(requests, answers, strict=True)
        ]

    def choose(
        self, conversations: Sequence[Conversation], options: Sequence[str], progress: Progress = silent
    ) -> list[list[float] | Missing]:
        """The probability of each option; see ``ChatModel``."""
        answers = self._answer(make_requests(self.digest, conversations, options=options), progress)
        return [answer if isinstance(answer, Missing) else read_choice(answer) for answer in answers]

    def _answer(self, requests: list[Request], progress: Progress) -> list[StoredReply | Missing]:
        stored, wanted = split_by_store(requests, self._replies)
        answers: dict[str, StoredReply | Missing] = dict(stored)
        run = _Run(self._settings, self._replies, wanted, self._dialect, self.usage, progress)
        if wanted:
            before = f"; {len(stored):,} replies are there already" if stored else ""
            expected = estimate([request.conversation for request in wanted], self._settings).text()
            progress(0, len(wanted), f"{self._settings.model}: {expected}{before}")
            try:
                asyncio.run(run.ask_all())
            finally:
                self._dialect = run.dialect
                self.usage = add_usage(self.usage, run.usage())
        answers |= run.answers
        found = [answers[request.digest] for request in requests]
        more = Usage(
            n_requests=len(requests),
            n_from_store=sum(request.digest in stored for request in requests),
            n_failed=sum(isinstance(answer, Missing) for answer in found),
        )
        self.usage = add_usage(self.usage, more)
        return found


class _Run:
    """The requests of one call."""

    def __init__(
        self,
        settings: config.OpenAIChat,
        replies: ReplyStore,
        wanted: list[Request],
        dialect: Dialect,
        before: Usage,
        progress: Progress,
    ):
        self.answers: dict[str, StoredReply | Missing] = {}
        self.dialect = dialect
        self._settings, self._replies, self._wanted, self._progress = settings, replies, wanted, progress
        self._before = before
        self._budget = Budget(settings, before.n_prompt_tokens, before.n_reply_tokens)
        self._failed: Counter[str] = Counter()
        self._in_a_row = 0
        self._fatal: int | None = None

    def usage(self) -> Usage:
        """Tokens and money that went into these requests."""
        n_prompt = self._budget.n_prompt_tokens - self._before.n_prompt_tokens
        n_reply = self._budget.n_reply_tokens - self._before.n_reply_tokens
        return Usage(n_prompt_tokens=n_prompt, n_reply_tokens=n_reply, usd=price(self._settings, n_prompt, n_reply))

    async def ask_all(self) -> None:
        """Ask for them all, so many at a time; stops when the endpoint is beyond hope, after those under way."""
        waiting = iter(self._wanted)
        async with Endpoint(self._settings, self.dialect) as endpoint:
            n_workers = min(self._settings.max_concurrency, len(self._wanted))
            await asyncio.gather(*(self._work(endpoint, waiting) for _ in range(n_workers)))
            self.dialect = endpoint.dialect
        if self._hopeless():
            raise ChatUnavailable(self._explain())

    async def _work(self, endpoint: Endpoint, waiting: Iterator[Request]) -> None:
        for request in waiting:
            if self._hopeless():
                return
            expected = prompt_tokens(request.conversation)
            if not await self._budget.begin(expected):
                self.answers[request.digest] = SPENT
                continue
            answer = await endpoint.ask(request)
            n_prompt, n_reply = _tokens(answer, expected)
            await self._budget.end(expected, n_prompt, n_reply)
            self._keep(request, answer, n_prompt, n_reply)

    def _keep(self, request: Request, answer: Answer | Failure, n_prompt: int, n_reply: int) -> None:
        likely = None
        if isinstance(answer, Answer) and request.options is not None:
            weights = weigh_options(answer, request.options)
            answer, likely = (weights, None) if isinstance(weights, Failure) else (answer, weights)
        if isinstance(answer, Failure):
            self.answers[request.digest] = Missing(answer.reason)
            self._count(answer)
        else:
            reply = request.stored(self._settings.model, answer.text, answer.finished, n_prompt, n_reply, likely)
            self._replies.put(request.digest, reply)
            self.answers[request.digest] = reply
            self._in_a_row = 0
        failed = sum(isinstance(each, Missing) for each in self.answers.values())
        done, total = len(self.answers), len(self._wanted)
        usage = self.usage()
        spent = usage.n_prompt_tokens + usage.n_reply_tokens
        text = f"{done:,} of {total:,} replies by {self._settings.model}, {spent:,} tokens, {failed:,} failed"
        self._progress(done, total, text)

    def _count(self, failure: Failure) -> None:
        if not failure.of_endpoint:
            self._in_a_row = 0
            return
        self._failed[failure.reason] += 1
        self._in_a_row += 1
        if failure.status in _FATAL:
            self._fatal = failure.status

    def _hopeless(self) -> bool:
        most = self._settings.max_failed
        too_many = self._failed.total() > most * len(self._wanted)
        return self._fatal is not None or too_many or (most < 1 and self._in_a_row >= _IN_A_ROW)

    def _explain(self) -> str:
        settings, where = self._settings, place(self._settings.base_url)
        if self._fatal == 404:
            return (
                f"{where} answered HTTP 404: expected model {settings.model!r} there; see that the name is right, and "
                "that base_url is where the protocol begins (it mostly ends with /v1)"
            )
        if self._fatal is not None:
            return (
                f"{where} answered HTTP {self._fatal}: expected a key that may use model {settings.model!r} in the "
                f"environment variable {settings.api_key_env}"
            )
        what = ", ".join(f"{count:,} x {reason}" for reason, count in self._failed.most_common())
        kept = sum(isinstance(answer, StoredReply) for answer in self.answers.values())
        return (
            f"{self._failed.total():,} of {len(self._wanted):,} requests to {where} failed: {what}; see that the "
            "endpoint runs, lower max_concurrency, or raise timeout_s, max_retries or max_failed. "
            f"{kept:,} replies came and are kept: the next run asks for the others only"
        )


def _tokens(answer: Answer | Failure, expected_prompt: int) -> tuple[int, int]:
    """Tokens of the prompt and of the reply, by the endpoint's count where it gives one."""
    if isinstance(answer, Failure):
        return answer.n_prompt_tokens, answer.n_reply_tokens
    n_prompt = expected_prompt if answer.n_prompt_tokens is None else answer.n_prompt_tokens
    return n_prompt, text_tokens(answer.text) if answer.n_reply_tokens is None else answer.n_reply_tokens
