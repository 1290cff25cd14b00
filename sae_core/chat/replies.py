"""Replies kept by content: no prompt is asked for, or paid for, twice.

A file a reply, named by the digest of everything that decided it. Files come into their place by one rename, so several
processes may share a folder.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sae_core.chat.messages import Conversation, Reply
from sae_core.config import Result
from sae_core.store import digest_json


class StoredReply(Result):
    """What ``<digest>.json`` holds: what was asked, of whom, and what came back."""

    model: str
    conversation: list[tuple[str, str]]
    """Roles and contents."""
    stop: str | None = None
    options: list[str] | None = None
    """Of a choice; None where the model wrote freely."""
    text: str
    finished: bool
    probabilities: list[float] | None = None
    """Of the options; None where the model wrote freely."""
    n_prompt_tokens: int
    n_reply_tokens: int


def request_digest(
    chat: str, conversation: Conversation, stop: str | None = None, options: Sequence[str] | None = None
) -> str:
    """sha256 of all that decides a reply.

    Args:
        chat: digest of the model and its settings.
    """
    turns = [[message.role, message.content] for message in conversation]
    asked: dict[str, Any] = {"chat": chat, "conversation": turns, "stop": stop}
    return digest_json(asked if options is None else asked | {"options": list(options)})


def read_choice(stored: StoredReply) -> list[float]:
    """The probabilities of a choice."""
    if stored.probabilities is None:
        raise AssertionError("a reply without options was stored under the digest of a choice")
    return stored.probabilities


def as_reply(digest: str, stored: StoredReply) -> Reply:
    """A stored reply as its asker sees it."""
    return Reply(stored.text, stored.finished, digest)


class ReplyStore:
    """A folder of replies.

    Args:
        folder: made with the first reply.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, digest: str) -> Path:
        """Where a reply is, or would be."""
        return self.folder / digest[:2] / f"{digest}.json"

    def get(self, digest: str) -> StoredReply | None:
        """The reply of that digest; None if there is none, or its file is damaged (it is then asked for again)."""
        try:
            return StoredReply.model_validate_json(self.path(digest).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def put(self, digest: str, reply: StoredReply) -> None:
        """Keep a reply; one that is there already is replaced."""
        path = self.path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own for every writer: two processes may bring the same reply at the same time.
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f"{digest}.", suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(reply.model_dump_json(indent=1))
            os.replace(part, path)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise
