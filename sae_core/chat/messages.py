"""What goes to a model that writes text, and what comes back.

Below *explaining*, *scoring* and *similarity*, which all ask such models. A failed request is a missing value with a
reason; equal reasons are counted together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from sae_core.progress import Progress, silent


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "text"]
    """``text`` is continued as it stands, without a chat template; it must be the only message."""
    content: str


Conversation = tuple[Message, ...]


@dataclass(frozen=True)
class Reply:
    """What a model wrote."""

    text: str
    finished: bool
    """Whether it came to an end by itself, not by ``max_new_tokens``."""
    digest: str
    """sha256 of model, settings and conversation: the reply's name in the store."""


@dataclass(frozen=True)
class Missing:
    """No result, and why; equal reasons are counted together. A reason never holds a server's own words."""

    reason: str


@dataclass(frozen=True)
class Usage:
    """What a stage asked of a model."""

    n_requests: int = 0
    """Conversations, those answered from the store included."""
    n_from_store: int = 0
    n_failed: int = 0
    n_prompt_tokens: int = 0
    """Of the requests made now; those of replies from the store cost nothing."""
    n_reply_tokens: int = 0
    usd: float | None = None
    """None without prices."""


class ChatUnavailable(RuntimeError):
    """Too many requests failed for the endpoint's reasons. The replies that came are kept; the next run goes on."""


@runtime_checkable
class ChatModel(Protocol):
    """A model that continues conversations. The same conversation gives the same reply, as far as the model does."""

    digest: str
    """Identifies the model and the settings that decide its replies."""
    usage: Usage
    """Of all calls so far."""

    def complete(
        self, conversations: Sequence[Conversation], stop: str | None = None, progress: Progress = silent
    ) -> list[Reply | Missing]:
        """A reply to each conversation, in their order.

        Args:
            stop: text at which a reply ends; it is not part of it.

        Raises:
            ChatUnavailable: if too many requests failed for the endpoint's reasons.
        """
        ...

    def choose(
        self, conversations: Sequence[Conversation], options: Sequence[str], progress: Progress = silent
    ) -> list[list[float] | Missing]:
        """The probability of each option as the beginning of the reply; those of the options add up to 1.

        Where an endpoint gives no probabilities, 1 for the option it wrote and 0 for the others.

        Raises:
            ChatUnavailable: if too many requests failed for the endpoint's reasons.
        """
        ...
