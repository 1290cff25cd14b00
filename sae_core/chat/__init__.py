"""Models that write text: prompts, replies kept by content, a small model on this machine, any endpoint.

Place in the flow: below explaining, scoring and similarity, which all ask such models.
"""

from sae_core.chat.building import build_chat, chat_inputs, check_chat
from sae_core.chat.messages import ChatModel, ChatUnavailable, Conversation, Message, Missing, Reply, Usage
from sae_core.chat.prompts import Prompt, PromptName, load_prompt
from sae_core.chat.replies import ReplyStore

__all__ = [
    "ChatModel",
    "ChatUnavailable",
    "Conversation",
    "Message",
    "Missing",
    "Prompt",
    "PromptName",
    "Reply",
    "ReplyStore",
    "Usage",
    "build_chat",
    "chat_inputs",
    "check_chat",
    "load_prompt",
]
