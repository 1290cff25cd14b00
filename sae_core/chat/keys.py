"""The key of an endpoint: from the environment to the endpoint, and nowhere else."""

import os
from urllib.parse import urlsplit

from sae_core.config import OpenAIChat

_LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})


def is_local(base_url: str) -> bool:
    """Whether an endpoint is on this machine, where it may do without a key."""
    return urlsplit(base_url).hostname in _LOCAL


def place(base_url: str) -> str:
    """An endpoint as messages name it: without a query, in which some put a key."""
    parts = urlsplit(base_url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def read_key(settings: OpenAIChat) -> str | None:
    """The key in the environment; None where there is none and the endpoint is on this machine.

    Raises:
        ValueError: if there is none for an endpoint elsewhere, or it has characters that no key has. Neither message
            has the key.
    """
    name = settings.api_key_env
    key = os.environ.get(name, "").strip()
    if not key and is_local(settings.base_url):
        return None
    if not key:
        raise ValueError(
            f"no key for {place(settings.base_url)}: expected one in the environment variable {name}, which is not "
            f"set; export {name}, or name another variable in api_key_env (an endpoint that asks for none takes any)"
        )
    # A line break, for one, would end up in the error of whoever writes the header, and the key beside it.
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError(
            f"the key in the environment variable {name} has characters that no key has (a space, a line break, or "
            "one that is not ASCII): copy it again"
        )
    return key
