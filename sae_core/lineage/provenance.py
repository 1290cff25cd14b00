"""A chain in the terms of W3C PROV, for tools that read those. Part of *lineage*.

An artifact is an *entity*, the build that made it an *activity*, this project at a commit a *software agent*. What came
from outside (a model, a text) is an entity named by its digest.
"""

import re
from datetime import datetime, timedelta
from typing import Any

from prov.model import PROV, ProvDocument

from sae_core.lineage.walks import Lineage, Node

_NAMESPACE = "urn:sae-concord:"
_OUTSIDE = ("model", "corpus")
"""Inputs that name what came from outside by its digest."""


def prov_document(lineage: Lineage) -> ProvDocument:
    """The chain as a PROV document; ``.serialize(format="json")`` is PROV-JSON."""
    document = ProvDocument()
    for name in ("artifact", "build", "input", "commit", "concord"):
        document.add_namespace(name, f"{_NAMESPACE}{name}:")
    for node in lineage.nodes.values():
        _add_entity(document, node)
    for node in lineage.nodes.values():
        if node.artifact is not None:
            _add_build(document, node)
    return document


def _name(prefix: str, node: Node) -> str:
    return f"{prefix}:{node.entry.kind}.{node.entry.fingerprint}"


def _add_entity(document: ProvDocument, node: Node) -> None:
    attributes: dict[Any, Any] = {
        "prov:type": f"concord:{node.entry.kind}",
        "concord:content_sha256": node.entry.content,
        "concord:in_store": node.artifact is not None,
    }
    if node.artifact is not None:
        attributes["prov:location"] = node.artifact.url
    document.entity(_name("artifact", node), attributes)


def _add_build(document: ProvDocument, node: Node) -> None:
    assert node.artifact is not None
    manifest = node.artifact.manifest
    end = datetime.fromisoformat(manifest.created)
    build = document.activity(
        _name("build", node),
        end - timedelta(seconds=manifest.seconds),
        end,
        {
            "concord:code_version": manifest.code_version,
            **{f"concord:{key}": value for key, value in sorted(manifest.environment.items())},
        },
    )
    document.wasGeneratedBy(_name("artifact", node), build, end)
    for entry in manifest.upstream.values():
        document.used(build, f"artifact:{entry.kind}.{entry.fingerprint}")
        document.wasDerivedFrom(_name("artifact", node), f"artifact:{entry.kind}.{entry.fingerprint}", build)
    for name in _OUTSIDE:
        digest = manifest.inputs.get(name)
        if isinstance(digest, str):
            outside = f"input:{name}.{re.sub(r'[^A-Za-z0-9.-]', '_', digest)}"
            document.entity(outside, {"prov:type": f"concord:{name}", "concord:digest": digest})
            document.used(build, outside)
    agent = f"commit:{re.sub(r'[^A-Za-z0-9.-]', '_', manifest.environment.get('git_commit', 'unknown'))}"
    document.agent(agent, {"prov:type": PROV["SoftwareAgent"], "prov:label": "sae-concord"})
    document.wasAssociatedWith(build, agent)
