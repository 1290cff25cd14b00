"""What an endpoint sent back, read: a reply, the weights of options, or why there is neither.

Nothing that a server says about a failure is passed on: it may repeat a key, and nobody knows what else.
"""

import re
from dataclasses import dataclass
from math import exp

from pydantic import BaseModel, NonNegativeInt, ValidationError

from sae_core.chat.requests import LONG_PROMPT

_LONG = re.compile(r"context[ _](length|size|window)|maximum context|exceed_context|prompt is too long|too many tokens")


class _Likely(BaseModel):
    token: str
    logprob: float


class _Position(BaseModel):
    top_logprobs: list[_Likely] = []


class _Logprobs(BaseModel):
    content: list[_Position] | None = None


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(BaseModel):
    prompt_tokens: NonNegativeInt | None = None
    completion_tokens: NonNegativeInt | None = None


class _Body(BaseModel):
    choices: list[_Choice]
    usage: _Usage | None = None


@dataclass(frozen=True)
class Answer:
    """A reply that could be read."""

    text: str
    finished: bool
    n_prompt_tokens: int | None
    n_reply_tokens: int | None
    """None where the endpoint does not count."""
    likely: dict[str, float]
    """Probabilities of the likeliest first tokens, where the endpoint gives them."""


@dataclass(frozen=True)
class Failure:
    """No reply."""

    reason: str
    of_endpoint: bool = True
    """Whether the endpoint is to blame, rather than this prompt."""
    status: int | None = None
    n_prompt_tokens: int = 0
    n_reply_tokens: int = 0
    """What was spent all the same: a model may think at length and say nothing."""


def read_body(text: str) -> Answer | Failure:
    """The reply in the body of an answer with status 200."""
    try:
        body = _Body.model_validate_json(text)
    except ValidationError:
        return Failure("the reply could not be read")
    if not body.choices:
        return Failure("the reply could not be read")
    choice, usage = body.choices[0], body.usage or _Usage()
    if not (choice.message.content or "").strip():
        return Failure(
            "the reply is empty",
            of_endpoint=False,
            n_prompt_tokens=usage.prompt_tokens or 0,
            n_reply_tokens=usage.completion_tokens or 0,
        )
    first = (choice.logprobs and choice.logprobs.content) or [_Position()]
    likely: dict[str, float] = {}
    for each in first[0].top_logprobs:
        likely[each.token] = likely.get(each.token, 0.0) + exp(min(each.logprob, 0.0))
    return Answer(
        text=choice.message.content or "",
        finished=choice.finish_reason == "stop",
        n_prompt_tokens=usage.prompt_tokens,
        n_reply_tokens=usage.completion_tokens,
        likely=likely,
    )


def read_refusal(status: int, body: str) -> Failure:
    """Why an answer with another status is no reply. Only kinds of errors are recognised in the body."""
    if status in (400, 413, 422) and (status == 413 or _LONG.search(body.lower())):
        return Failure(LONG_PROMPT, of_endpoint=False, status=status)
    return Failure(f"HTTP {status}", status=status)


def weigh_options(answer: Answer, options: tuple[str, ...]) -> list[float] | Failure:
    """Probabilities of the options, by the first token where its probabilities are known, else by what was written."""
    weights = [0.0] * len(options)
    for token, probability in answer.likely.items():
        begun = token.strip().casefold()
        meant = [i for i, option in enumerate(options) if begun and option.casefold().startswith(begun)]
        if len(meant) == 1:
            weights[meant[0]] += probability
    total = sum(weights)
    if total > 0:
        return [weight / total for weight in weights]
    words = re.findall(r"\w+", answer.text.casefold())[:1]
    written = [float([option.casefold()] == words) for option in options]
    return written if sum(written) == 1 else Failure("the reply is none of the options", of_endpoint=False)
