"""What leads from a materialization to everything behind it: the part of its metadata that is the same for all assets.

It lives in Dagster's event database, so it is kept below 30 kB; ``concord lineage`` shows all of it.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import dagster as dg
from upath import UPath

from sae_core.store import Artifact, ArtifactStore

_DIGITS = 12
"""Hex digits of a digest that are shown."""
_ROWS = 60
_LINEAGE_BYTES = 8_000
_SETTINGS_BYTES = 8_000


def provenance(artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    """Where artifacts lie, what they were made from, with which settings and code, on which machine.

    Args:
        artifacts: of one materialization, by name, the main one first. The tree and the settings are those of the
            main one.
    """
    main = next(iter(artifacts.values()))
    manifest = main.manifest
    return {
        "path": dg.MetadataValue.path(str(main.path)),
        "cache_hit": all(artifact.cache_hit for artifact in artifacts.values()),
        "seconds_to_make": sum(artifact.manifest.seconds for artifact in artifacts.values()),
        "created": dg.MetadataValue.timestamp(datetime.fromisoformat(manifest.created)),
        "fingerprint": manifest.fingerprint,
        "code_version": manifest.code_version,
        "git_commit": manifest.environment.get("git_commit", ""),
        "settings": dg.MetadataValue.json(_settings(manifest.inputs)),
        "environment": dg.MetadataValue.json(manifest.environment),
        "upstream": dg.MetadataValue.md(upstream_table(artifacts)),
        "lineage": dg.MetadataValue.md(lineage_text(main)),
    }


def upstream_table(artifacts: Mapping[str, Artifact]) -> str:
    """What artifacts were made from, a row each, without what they were made together with; at most 60 rows."""
    together = {(each.manifest.kind, each.manifest.fingerprint) for each in artifacts.values()}
    rows: dict[tuple[str, str], str] = {}
    n_missing = 0
    for artifact in artifacts.values():
        for name, entry in artifact.manifest.upstream.items():
            key = (entry.kind, entry.fingerprint)
            if key in together or key in rows:
                continue
            found = _store_of(artifact).get(*key)
            there = found is not None and found.content == entry.content
            n_missing += not there
            made = found.manifest.created[:16].replace("T", " ") if found else ""
            digests = f"`{entry.fingerprint[:_DIGITS]}` | `{entry.content[:_DIGITS]}`"
            state = "yes" if there else "**no**" if found is None else "**other content**"
            rows[key] = f"| {name} | {entry.kind} | {digests} | {made} | {state} |"
    if not rows:
        return "Nothing: it is made from what lies outside of the store (see *settings*)."
    lines = ["| name | kind | fingerprint | content | made (UTC) | in store |", "|-|-|-|-|-|-|", *rows.values()]
    if len(rows) > _ROWS:
        missing = f", {n_missing} of them no longer in the store" if n_missing else ""
        lines = [*lines[: _ROWS + 2], "", f"{len(rows) - _ROWS} more{missing}; `concord lineage` shows all."]
    return "\n".join(lines)


def lineage_text(artifact: Artifact) -> str:
    """Everything upstream of an artifact as a tree, in Markdown; cut where it is long."""
    from sae_core.lineage import trace, tree_text

    lines = tree_text(trace(_store_of(artifact), artifact)).splitlines()
    place, shown = f"{artifact.manifest.kind}/{artifact.manifest.fingerprint[:_DIGITS]}", 0
    for n, line in enumerate(lines):
        shown += len(line.encode()) + 1
        if shown > _LINEAGE_BYTES:
            rest = f"\n\n{len(lines) - n} more lines: `concord lineage {place}`"
            return "```\n" + "\n".join(lines[:n]) + "\n```" + rest
    return "```\n" + "\n".join(lines) + f"\n```\n\n`concord lineage {place} --settings` shows the settings of each."


def _settings(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs as they are; what is too long is named."""
    shown: dict[str, Any] = {}
    size = 0
    for name, value in inputs.items():
        length = len(json.dumps(value, ensure_ascii=False).encode())
        size += length
        shown[name] = value if size <= _SETTINGS_BYTES else f"{length:,} bytes: see inputs.{name} in _manifest.json"
        size -= length * (size > _SETTINGS_BYTES)
    return shown


def _store_of(artifact: Artifact) -> ArtifactStore:
    return ArtifactStore(str(UPath(artifact.url).parent.parent))
