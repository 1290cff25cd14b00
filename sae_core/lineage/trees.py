"""A chain as a tree for the terminal. Part of *lineage*."""

import json
import re
from collections.abc import Iterator
from typing import Any

from sae_core.lineage.walks import Lineage, Node

_DIGEST = re.compile(r"[0-9a-f]{40,64}")
_SHOWN = 12
"""Hex digits of a digest that are shown."""


def tree_text(lineage: Lineage, settings: bool = False) -> str:
    """An artifact, what it was made from below it, and so on down to the model and the text.

    A line has the artifact's name in the manifest of what it went into, its place in the store, the digest of its
    content, when and from which commit it was made, and the digests of what came from outside. What has been shown once
    is not unfolded again.

    Args:
        settings: also the settings of each.
    """
    return "\n".join(_lines(lineage, lineage.root, "", "", "", set(), settings))


def _lines(
    lineage: Lineage, node: Node, name: str, first: str, rest: str, seen: set[tuple[str, str]], settings: bool
) -> Iterator[str]:
    if node.key in seen:
        yield f"{first}{name}{'/'.join(node.key)}  (as above)"
        return
    seen.add(node.key)
    yield f"{first}{name}{_describe(node)}"
    children = list(node.upstream.items())
    if settings and node.artifact is not None:
        bar = f"{rest}{'│  ' if children else '   '}"
        for key, value in node.artifact.manifest.inputs.items():
            if not _is_digest(value):
                yield f"{bar}{key}: {json.dumps(value, sort_keys=True, ensure_ascii=False)}"
    for number, (label, entry) in enumerate(children):
        last = number == len(children) - 1
        yield from _lines(
            lineage,
            lineage.nodes[entry.kind, entry.fingerprint],
            "" if label == entry.kind else f"{label}: ",
            f"{rest}{'└─ ' if last else '├─ '}",
            f"{rest}{'   ' if last else '│  '}",
            seen,
            settings,
        )


def _describe(node: Node) -> str:
    place = f"{node.entry.kind}/{node.entry.fingerprint}"
    if node.artifact is None:
        return f"{place}  MISSING from the store (content {node.entry.content[:_SHOWN]} was used)"
    manifest = node.artifact.manifest
    commit = manifest.environment.get("git_commit", "unknown")
    parts = [place, f"content {manifest.content[:_SHOWN]}"]
    if node.replaced:
        parts[-1] += f" NOT THE ONE USED ({node.entry.content[:_SHOWN]})"
    parts += [f"{name} {value[:_SHOWN]}" for name, value in manifest.inputs.items() if _is_digest(value)]
    parts.append(f"made {manifest.created[:16].replace('T', ' ')} in {manifest.seconds:,.0f} s")
    parts.append(f"commit {commit[:8]}{' (changed)' if commit.endswith('-dirty') else ''}")
    return "  ".join(parts)


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None
