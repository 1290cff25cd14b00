"""Prompts as files: what models are told stands in ``sae_core/prompts`` and is identified by its digest.

A file is made of turns, each below a line ``### system``, ``### user`` or ``### assistant``; a file without such lines
is one text that the model continues as it stands. ``{{name}}`` is where a value goes.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Literal

from sae_core.chat.messages import Conversation, Message

PromptName = Literal["word_list", "explain", "detect", "fuzz", "simulate", "judge"]
"""``word_list(words)`` and ``explain(examples)`` ask for an explanation; ``detect(explanation, example)`` and
``fuzz(explanation, example)`` for yes or no; ``simulate(explanation, tokens, n_tokens)`` for a JSON list of integers
from 0 to 10; ``judge(first, second)`` for a number from 1 to 10."""

_TURN = re.compile(r"^### (system|user|assistant)[ \t]*\n", re.MULTILINE)
_PLACE = re.compile(r"\{\{(\w+)\}\}")


@dataclass(frozen=True)
class Prompt:
    """A prompt as it stands in its file."""

    name: str
    text: str

    @property
    def sha256(self) -> str:
        """Digest of the file: a change of the wording is a change of what comes back."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @cached_property
    def turns(self) -> Conversation:
        """The turns with their places still empty."""
        begin, *rest = _TURN.split(self.text)
        if not rest:
            return (Message("text", self.text.rstrip("\n")),)
        if begin.strip():
            raise ValueError(f"prompt {self.name}: expected '### system', '### user' or '### assistant' on line 1")
        return tuple(_turn(role, content) for role, content in zip(rest[::2], rest[1::2], strict=True))

    @cached_property
    def places(self) -> frozenset[str]:
        """Names of the values it needs."""
        return frozenset(_PLACE.findall(self.text))

    def fill(self, **values: str) -> Conversation:
        """The conversation with every ``{{name}}`` replaced by its value.

        A value is never read as part of the prompt: neither ``### user`` nor ``{{name}}`` in it means anything.

        Raises:
            ValueError: if a value is missing, or has no place.
        """
        if values.keys() != self.places:
            raise ValueError(
                f"prompt {self.name} takes {', '.join(sorted(self.places)) or 'no value'}: "
                f"got {', '.join(sorted(values)) or 'none'}"
            )
        return tuple(
            Message(turn.role, _PLACE.sub(lambda place: values[place[1]], turn.content)) for turn in self.turns
        )


def _turn(role: str, content: str) -> Message:
    match role:
        case "system" | "user" | "assistant":
            return Message(role, content.strip("\n"))
    raise AssertionError(role)


def load_prompt(name: PromptName) -> Prompt:
    """A prompt of ``sae_core/prompts``."""
    text = resources.files("sae_core").joinpath("prompts", f"{name}.txt").read_text(encoding="utf-8")
    return Prompt(name, text)
