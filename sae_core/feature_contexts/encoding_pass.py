"""The one pass over the shards: every activation is encoded, and counted in the windows of the pool.

A pass that was killed goes on with what is not in files yet; shards are read from the beginning again, which costs
little beside encoding.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int32

from sae_core.architectures import Sae
from sae_core.feature_contexts.codes import CodeFiles, encode, tokens_at_once
from sae_core.feature_contexts.contexts import N_HALVES
from sae_core.feature_contexts.places import Pool
from sae_core.held_out_text import HeldOutText
from sae_core.progress import Progress
from sae_core.shards import ShardData, Shards
from sae_core.store import digest_json


def extent(held_out: Shards, context_length: int, n_tokens: int) -> tuple[int, int]:
    """The first contexts with at most n_tokens rows in all, one context at least.

    Returns:
        Their rows, and the tokens of the held-out text up to the end of the last of them.
    """
    n_rows, last = 0, -1
    for i in range(held_out.n_shards):
        ids = held_out.context_ids(i)
        ends = np.append(np.flatnonzero(np.diff(ids)) + 1, len(ids))
        n_fitting = max(int(np.searchsorted(ends, n_tokens - n_rows, side="right")), int(n_rows == 0))
        if n_fitting:
            last = int(ids[ends[n_fitting - 1] - 1])
            n_rows += int(ends[n_fitting - 1])
        if n_fitting < len(ends):
            break
    return n_rows, (last + 1) * context_length


def count_documents(text: HeldOutText, n_tokens: int) -> list[int]:
    """Documents of each half among the first tokens.

    Raises:
        ValueError: if a half has none.
    """
    documents = np.unique(text.document_ids[:n_tokens], return_index=True)[1]
    counts = [int((text.half[documents] == half).sum()) for half in range(N_HALVES)]
    if min(counts) == 0:
        raise ValueError(
            f"the corpus is too small for halves: expected held-out documents in both, got {counts[0]} in the first "
            f"and {counts[1]} in the second; read more text or raise corpus.held_out_fraction"
        )
    return counts


def open_code_files(folder: Path, sae: Sae, held_out: Shards, text: HeldOutText, n_rows: int) -> CodeFiles:
    """Files for the codes of the first rows; those of a pass with the same inputs are kept."""
    weights = hashlib.sha256()
    for name, tensor in sorted(sae.state_dict().items()):
        weights.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    inputs = {
        "sae": [sae.architecture, repr(sae.conventions), *(repr(getattr(sae, each)) for each in sae.encode_settings)],
        "weights": weights.hexdigest(),
        "shards": [entry.sha256 for entry in held_out.index.shards],
        "documents": hashlib.sha256(text.document_ids.tobytes()).hexdigest(),
        "n_rows": n_rows,
        "tokens_at_once": tokens_at_once(sae.d_sae),
    }
    return CodeFiles(folder, sae.d_sae, digest_json(inputs))


def encode_held_out(
    files: CodeFiles, sae: Sae, held_out: Shards, text: HeldOutText, pool: Pool, n_rows: int, progress: Progress
) -> Bool[np.ndarray, " n"]:
    """Write the active codes of the first rows into files, and give the activations to the pool.

    Tokens of no document are passed over.

    Returns:
        Which tokens of the text were encoded.

    Raises:
        ValueError: if the activations are not of this text, or not in its order.
    """
    looked_at = np.zeros(len(text), np.bool_)
    done, last = 0, -1
    for rows in _first_rows(held_out, tokens_at_once(sae.d_sae), n_rows):
        tokens = _tokens(rows, text, last)
        known = text.half[tokens] >= 0
        looked_at[tokens[known]] = True
        pool.add(tokens, rows.activations)
        if done >= files.n_rows:
            files.add(encode(sae, rows.activations[known], tokens[known]), len(tokens))
        done, last = done + len(tokens), int(tokens[-1])
        progress(done, n_rows, f"{done:,} of {n_rows:,} held-out tokens encoded")
    files.finish()
    return looked_at


def _first_rows(held_out: Shards, at_once: int, n_rows: int) -> Iterator[ShardData]:
    done = 0
    for rows in held_out.in_order(at_once):
        n = min(len(rows.positions), n_rows - done)
        yield ShardData(rows.activations[:n], rows.token_ids[:n], rows.context_ids[:n], rows.positions[:n])
        done += n
        if done == n_rows:
            return


def _tokens(rows: ShardData, text: HeldOutText, last: int) -> Int32[np.ndarray, " n"]:
    """Tokens of the held-out text that the rows are of."""
    tokens = rows.context_ids * text.context_length + rows.positions
    ascending = np.diff(tokens, prepend=last).min() > 0
    if tokens.max() >= len(text) or not np.array_equal(text.token_ids[tokens], rows.token_ids):
        raise ValueError(
            f"the activations were not read from these contexts: expected the tokens of {text.contexts.path}, got "
            "others; pass the contexts that the activations were made from, or materialize activations again"
        )
    if not ascending:
        raise ValueError(
            "the activations are not in the order of the held-out text: expected contexts and positions to ascend, "
            f"got token {int(tokens[0])} after {last} or the like; materialize activations again"
        )
    found: np.ndarray = tokens.astype(np.int32)
    return found
