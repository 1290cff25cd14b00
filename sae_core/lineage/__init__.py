"""Where a result comes from: chains of manifests, read without the orchestrator.

Beside *store*: what lies upstream of an artifact, as a tree or in the terms of W3C PROV; whether all of it is still
there and unaltered; in which inputs two results differ; and what nothing refers to.
"""

from sae_core.lineage.differences import Difference, differences
from sae_core.lineage.garbage import Garbage, collect_garbage, find_garbage
from sae_core.lineage.provenance import prov_document
from sae_core.lineage.trees import tree_text
from sae_core.lineage.verification import verify_chain
from sae_core.lineage.walks import Lineage, Node, trace

__all__ = [
    "Difference",
    "Garbage",
    "Lineage",
    "Node",
    "collect_garbage",
    "differences",
    "find_garbage",
    "prov_document",
    "trace",
    "tree_text",
    "verify_chain",
]
