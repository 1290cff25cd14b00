"""Whether everything upstream of a result is there and unaltered. Part of *lineage*."""

from sae_core.lineage.walks import Lineage
from sae_core.progress import Progress, silent
from sae_core.stored_files import verify


def verify_chain(lineage: Lineage, progress: Progress = silent) -> list[str]:
    """Hash every file of a chain again.

    Returns:
        What is wrong, a line each, the artifact first; nothing when all is well.
    """
    wrong = []
    for done, node in enumerate(lineage.nodes.values(), 1):
        place = "/".join(node.key)
        if node.artifact is None:
            wrong.append(f"{place}: missing from the store")
        else:
            if node.replaced:
                wrong.append(
                    f"{place}: holds content {node.artifact.content[:12]}, but {node.entry.content[:12]} was used"
                )
            wrong += [f"{place}: {line}" for line in verify(node.artifact)]
        progress(done, len(lineage.nodes), f"{place} hashed")
    return wrong
