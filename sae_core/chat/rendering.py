"""Conversations as the token ids that a local model reads."""

from typing import Any

from jinja2.exceptions import TemplateError

from sae_core.chat.messages import Conversation

PLAIN_TURN = "\n\nUser:"
"""How a model without a chat template goes on when it should have stopped."""


def render(tokenizer: Any, conversation: Conversation) -> list[int]:
    """Token ids up to where the model's reply begins.

    By the tokenizer's chat template where it has one, else as ``User:`` and ``Assistant:`` in plain text. A ``text``
    stays as it stands.
    """
    if conversation[0].role == "text":
        return list(tokenizer(conversation[0].content)["input_ids"])
    if tokenizer.chat_template is None:
        return list(tokenizer(_plain(conversation))["input_ids"])
    # The template writes the special tokens itself.
    return list(tokenizer(_templated(tokenizer, conversation), add_special_tokens=False)["input_ids"])


def is_plain(tokenizer: Any, conversation: Conversation) -> bool:
    """Whether roles are plain text, so that the model may write the user's next turn too."""
    return conversation[0].role != "text" and tokenizer.chat_template is None


def _templated(tokenizer: Any, conversation: Conversation) -> str:
    turns = [{"role": message.role, "content": message.content} for message in conversation]
    options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True}
    try:
        return str(tokenizer.apply_chat_template(turns, **options))
    except TemplateError:
        # Some templates (Gemma's) know no system: what it says then begins the user's first turn.
        if len(turns) < 2 or turns[0]["role"] != "system":
            raise
        first = {"role": "user", "content": f"{turns[0]['content']}\n\n{turns[1]['content']}"}
        return str(tokenizer.apply_chat_template([first, *turns[2:]], **options))


def _plain(conversation: Conversation) -> str:
    names = {"system": "", "user": "User: ", "assistant": "Assistant: "}
    return "\n\n".join([names[message.role] + message.content for message in conversation] + ["Assistant:"])


def first_tokens(tokenizer: Any, options: tuple[str, ...]) -> list[list[int]]:
    """For each option, the tokens with which a reply that means it begins: as it is, capitalised, after a space.

    Raises:
        ValueError: if two options cannot be told apart by their first token.
    """
    found = []
    for option in options:
        spellings = {option, option.capitalize(), option.upper()}
        begun = [
            tokenizer(before + text, add_special_tokens=False)["input_ids"]
            for text in spellings
            for before in ("", " ")
        ]
        found.append({ids[0] for ids in begun if ids} - {tokenizer.unk_token_id})
    shared = {token for i, tokens in enumerate(found) for other in found[:i] for token in tokens & other}
    for option, tokens in zip(options, found, strict=True):
        if not tokens - shared:
            raise ValueError(
                f"options must begin with tokens of their own: {option!r} does not, among {', '.join(options)}; use "
                "other words, or let the model write"
            )
    return [sorted(tokens - shared) for tokens in found]
