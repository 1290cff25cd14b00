"""What a page of the reproduction was made of: a digest that changes when results or published rows do.

Part of *reproduction*.
"""

import hashlib
import json
from typing import Any

from sae_core.reproduction.published import CLAIMS, LANGUAGE_MODEL_CLAIMS
from sae_core.synthetic.results import PointSummary

_WORDS = ("description", "title")


def schema_digest() -> str:
    """Digest (SHA-256, 12 hexadecimal digits) of what results hold and of the published rows' ids and values.

    Descriptions take no part: a field explained in other words does not make a page old.
    """
    rows = [(claim.id, claim.published, claim.numbers) for claim in CLAIMS]
    rows += [(claim.id, claim.published, claim.numbers) for claim in LANGUAGE_MODEL_CLAIMS]
    content = json.dumps({"schema": _without_words(PointSummary.model_json_schema()), "rows": rows}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def first_line() -> str:
    """The first line of the page, which names the digest."""
    return f"<!-- made by sae-concord from artifacts of schema {schema_digest()}; do not edit -->"


def _without_words(schema: Any) -> Any:
    if isinstance(schema, dict):
        # A description is a text; a field may be called so, and then it is a schema.
        return {
            name: _without_words(value)
            for name, value in schema.items()
            if not (name in _WORDS and isinstance(value, str))
        }
    return [_without_words(value) for value in schema] if isinstance(schema, list) else schema
