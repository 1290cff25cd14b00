"""From settings to a model that writes text; what can be refused before any work; what decides its replies."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sae_core.chat.keys import read_key
from sae_core.chat.messages import ChatModel
from sae_core.chat.prompts import PromptName, load_prompt
from sae_core.chat.replies import ReplyStore
from sae_core.config import ChatConfig, LanguageModelConfig, LocalChat, OpenAIChat


def build_chat(
    settings: ChatConfig, replies_folder: Path, load_model: Callable[[LanguageModelConfig], Any]
) -> ChatModel:
    """The model that the settings name.

    Args:
        replies_folder: where replies are kept; it may be shared by models, stages and processes.
        load_model: loads the ``LanguageModel`` of a local one; not called for an endpoint.

    Raises:
        ModuleNotFoundError, ValueError: as ``check_chat``.
    """
    check_chat(settings)
    replies = ReplyStore(replies_folder)
    match settings:
        case LocalChat():
            from sae_core.chat.local import LocalChatModel

            return LocalChatModel(settings, load_model(settings.model), replies)
        case OpenAIChat():
            from sae_core.chat.openai import OpenAIChatModel

            return OpenAIChatModel(settings, replies)


def check_chat(settings: ChatConfig) -> None:
    """Refuse what can be known to be missing without a request: the package, the key.

    The files of a local model are for whoever loads it to check.

    Raises:
        ModuleNotFoundError: if the SDK of an endpoint is not installed; the message has the command.
        ValueError: if there is no key in the environment for an endpoint that is not on this machine.
    """
    if isinstance(settings, OpenAIChat):
        if find_spec("openai") is None:
            raise ModuleNotFoundError(
                "an endpoint is asked through the package openai, which is not installed; install it with: "
                "pip install 'sae-concord[openai]'"
            )
        read_key(settings)


def chat_inputs(settings: ChatConfig, prompts: Sequence[PromptName]) -> dict[str, str]:
    """What decides replies besides the settings, for fingerprints: digests of the prompts, and of a local model."""
    inputs = {f"prompt {name}": load_prompt(name).sha256 for name in prompts}
    if isinstance(settings, LocalChat):
        from sae_core.model_sources import model_digest

        inputs["model"] = model_digest(settings.model.source)
    return inputs
