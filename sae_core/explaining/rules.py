"""Rules: explanations that can be run, so they can be scored without a model."""

import json
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float32, Int64

from sae_core.explaining.attributes import TokenAttributes
from sae_core.explaining.clauses import Clause


@dataclass(frozen=True)
class Rule:
    """Any of several clauses; the most telling first."""

    clauses: tuple[Clause, ...]

    def predict(self, attributes: TokenAttributes, tokens: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        """Expected activation on some tokens: the largest weight of the clauses that match, 0 where none does."""
        found = np.zeros(len(tokens), np.float32)
        for clause in self.clauses:
            matching = attributes.matches(clause.kind, clause.value, tokens)
            np.maximum(found, np.float32(clause.weight), out=found, where=matching)
        return found

    def to_json(self) -> str:
        """One line of JSON: a list of clauses."""
        return json.dumps([asdict(clause) for clause in self.clauses], ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Rule":
        """The rule that ``to_json`` wrote."""
        return cls(tuple(Clause(**clause) for clause in json.loads(text)))
