"""The explanations of one run as a table, and what is said of them as a whole."""

import pyarrow as pa

from sae_core.config import Result

EXPLANATION_SCHEMA = pa.schema(
    [
        pa.field("feature", pa.int64(), nullable=False),
        pa.field("half", pa.int8(), nullable=False),
        pa.field("explanation", pa.string()),
        pa.field("missing_reason", pa.string()),
        pa.field("n_activations", pa.int64(), nullable=False),
        pa.field("frequency", pa.float64(), nullable=False),
        pa.field("rule", pa.string()),
        pa.field("prompt_digest", pa.string()),
        pa.field("reply", pa.string()),
        pa.field("words", pa.list_(pa.string()), nullable=False),
        pa.field("promoted", pa.list_(pa.string()), nullable=False),
        pa.field("examples", pa.list_(pa.string()), nullable=False),
    ]
)
"""``explanations.parquet``: two rows for every feature explained, one for each half of the text.

``explanation`` and ``missing_reason``: one of them is null. ``n_activations`` is of that half, ``frequency`` of both
together. ``rule``: a lexical explanation as JSON, which can be run. ``prompt_digest`` and ``reply``: what a model wrote
and the name under which the store keeps it with its prompt. ``words``: the most telling words the feature fires on;
``promoted``: those of the logit lens; ``examples``: its strongest contexts, marked <<so>>."""


class ExplanationsSummary(Result):
    """How many features were explained, and what became of the rest."""

    explainer: str
    kind: str
    n_alive: int
    """Features that fired on held-out text at least once."""
    n_features: int
    """Features of the table: those alive, or the sample of them that was asked for."""
    n_explanations: int
    """Explanations found; every feature has two places, one for each half of the text."""
    n_missing: int
    missing: dict[str, int]
    """Places without an explanation, by reason."""
