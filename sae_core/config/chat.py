"""Settings of language models that write, score and judge."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sae_core.config.base import Config
from sae_core.config.models import LanguageModelConfig


class ChatModelConfig(Config):
    """What all models that write text have in common."""

    max_new_tokens: int = Field(default=96, ge=1)
    """Tokens of a reply, at most."""


class LocalChat(ChatModelConfig):
    """A small instruct model on this machine through transformers: batched and greedy, so that the same prompt gives
    the same reply. A larger one is faster in a server of its own (llama-server, vLLM, Ollama) and ``kind: openai``.
    """

    kind: Literal["local"]
    model: LanguageModelConfig
    batch_size: int = Field(default=16, ge=1)


class OpenAIChat(ChatModelConfig):
    """Any endpoint that speaks OpenAI's chat protocol: vLLM, Ollama, a llama.cpp server, or a hosted one.

    Needs ``pip install sae-concord[openai]``. Replies are kept in the store, so no prompt is paid for twice.
    """

    kind: Literal["openai"]
    model: str
    """Its name at the endpoint."""
    base_url: str = Field(default="https://api.openai.com/v1", pattern=r"^https?://[^@?\s]+$")
    """Where the endpoint is; no user, password or query in it: the key comes from the environment."""
    api_key_env: str = Field(default="OPENAI_API_KEY", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Environment variable that holds the key. The key itself is never written anywhere. An endpoint without keys
    (on this machine, for example) needs none."""
    temperature: float | None = Field(default=0.0, ge=0)
    """None leaves it out, for models that refuse it."""
    seed: int | None = 0
    """Passed on to the endpoint; None leaves it out, for endpoints that refuse it."""
    max_concurrency: int = Field(default=8, ge=1)
    """Requests under way at a time."""
    timeout_s: float = Field(default=60.0, gt=0)
    max_retries: int = Field(default=4, ge=0)
    """Further tries after a refused connection, a time-out, 429 or 5xx, with growing pauses."""
    budget_tokens: int | None = Field(default=None, ge=1)
    """Tokens of prompts and replies together after which no further request is made; what is then not explained is
    missing, and counted. None: no limit."""
    budget_usd: float | None = Field(default=None, gt=0)
    """The same in money; needs both prices."""
    usd_per_million_prompt_tokens: float | None = Field(default=None, ge=0)
    usd_per_million_reply_tokens: float | None = Field(default=None, ge=0)
    max_failed: float = Field(default=0.1, ge=0, le=1)
    """Largest share of requests that may fail for the endpoint's reasons. Above it nothing is committed: the replies
    that came are kept, and the next run asks for the others only."""

    @model_validator(mode="after")
    def _priced(self) -> "OpenAIChat":
        prices = (self.usd_per_million_prompt_tokens, self.usd_per_million_reply_tokens)
        if self.budget_usd is not None and None in prices:
            raise ValueError(
                "budget_usd needs usd_per_million_prompt_tokens and usd_per_million_reply_tokens: got "
                f"{prices[0]} and {prices[1]}; write down the endpoint's prices, or set budget_tokens instead"
            )
        return self


ChatConfig = Annotated[LocalChat | OpenAIChat, Field(discriminator="kind")]
