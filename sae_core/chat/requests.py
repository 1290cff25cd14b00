"""What the models of this package share: equal requests made once, the store asked first, replies in order."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sae_core.chat.messages import Conversation, Usage
from sae_core.chat.replies import ReplyStore, StoredReply, request_digest

LONG_PROMPT = "the prompt is longer than the model takes"
"""Reason of a missing reply that fewer examples may cure."""


@dataclass(frozen=True)
class Request:
    """One conversation to be answered."""

    digest: str
    conversation: Conversation
    stop: str | None = None
    options: tuple[str, ...] | None = None

    def stored(
        self,
        model: str,
        text: str,
        finished: bool,
        n_prompt_tokens: int,
        n_reply_tokens: int,
        probabilities: list[float] | None = None,
    ) -> StoredReply:
        """Its reply, as it is kept."""
        return StoredReply(
            model=model,
            conversation=[(message.role, message.content) for message in self.conversation],
            stop=self.stop,
            options=None if self.options is None else list(self.options),
            text=text,
            finished=finished,
            probabilities=probabilities,
            n_prompt_tokens=n_prompt_tokens,
            n_reply_tokens=n_reply_tokens,
        )


def make_requests(
    chat: str, conversations: Sequence[Conversation], stop: str | None = None, options: Sequence[str] | None = None
) -> list[Request]:
    """A request for each conversation.

    Raises:
        ValueError: if a conversation is empty, or has a ``text`` that is not its only message.
    """
    for conversation in conversations:
        if not conversation or (len(conversation) > 1 and any(message.role == "text" for message in conversation)):
            raise ValueError("a conversation must be turns of system, user and assistant, or one text alone")
    kept = None if options is None else tuple(options)
    return [
        Request(request_digest(chat, conversation, stop, options), conversation, stop, kept)
        for conversation in conversations
    ]


def split_by_store(
    requests: Sequence[Request], replies: ReplyStore | None
) -> tuple[dict[str, StoredReply], list[Request]]:
    """Replies that are stored, by digest, and the requests that are still to be made, equal ones once."""
    distinct = {request.digest: request for request in requests}
    stored = {} if replies is None else {digest: replies.get(digest) for digest in distinct}
    found = {digest: reply for digest, reply in stored.items() if reply is not None}
    return found, [request for digest, request in distinct.items() if digest not in found]


def add_usage(usage: Usage, more: Usage) -> Usage:
    """Both together."""
    usd = None if usage.usd is None and more.usd is None else (usage.usd or 0.0) + (more.usd or 0.0)
    return replace(
        usage,
        n_requests=usage.n_requests + more.n_requests,
        n_from_store=usage.n_from_store + more.n_from_store,
        n_failed=usage.n_failed + more.n_failed,
        n_prompt_tokens=usage.n_prompt_tokens + more.n_prompt_tokens,
        n_reply_tokens=usage.n_reply_tokens + more.n_reply_tokens,
        usd=usd,
    )
