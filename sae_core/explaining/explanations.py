"""What an explanation of a feature is, and who writes one.

Place in the flow: feature contexts -> **explanations** -> scores -> similarity. An explainer never invents: where it
has nothing to say, or what came out cannot be read, the explanation is missing, with a reason that is counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from sae_core.chat.messages import Missing
from sae_core.explaining.rules import Rule
from sae_core.progress import Progress, silent


@dataclass(frozen=True)
class Explanation:
    """What one half of the text says of a feature."""

    text: str
    rule: Rule | None = None
    """The same as something that can be run; None where a model wrote the text."""
    prompt_digest: str | None = None
    """Name under which the store keeps the prompt and the reply; None where no model was asked."""
    reply: str | None = None
    """All that the model wrote."""


@runtime_checkable
class Explainer(Protocol):
    """Turns what is known of a feature in one half of the text into an explanation."""

    name: str

    def explain(self, slots: Sequence[tuple[int, int]], progress: Progress = silent) -> list[Explanation | Missing]:
        """An explanation, or the reason why there is none, for each slot, in their order.

        Args:
            slots: feature place (an index into ``FeatureContexts.features``) and half of the text.
        """
        ...
