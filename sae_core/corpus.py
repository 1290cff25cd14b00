"""Text as contexts of token ids: documents are read, split into training and held-out ones, and packed.

First stage of the flow: language model + corpus -> activations. A context has exactly ``context_length`` tokens. It
begins with the boundary token, which also stands between documents; a document longer than what is left of a
context goes on in the next one.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset, IterableDataset
from jaxtyping import Int32
from numpy import ndarray
from transformers import PreTrainedTokenizerBase

from sae_core.config import CorpusConfig, Result
from sae_core.corpus_sources import corpus_digest, load_documents
from sae_core.packing import Packer, SplitFile
from sae_core.progress import Progress, silent

__all__ = [
    "ContextSplit",
    "Contexts",
    "CorpusSummary",
    "corpus_digest",
    "load_documents",
    "open_contexts",
    "write_contexts",
]

SplitName = Literal["train", "held_out"]
SPLITS: tuple[SplitName, ...] = ("train", "held_out")
_BATCH_DOCUMENTS = 256


class CorpusSummary(Result):
    """What was packed."""

    n_documents: dict[str, int]
    """Documents by split, as far as they were read."""
    n_skipped: int
    """Documents without any text: missing values, or white space alone."""
    n_contexts: dict[str, int]
    """Contexts by split."""
    n_tokens: int
    """Tokens in all contexts, boundary tokens included."""
    context_length: int
    boundary_token_id: int


def boundary_token_id(tokenizer: PreTrainedTokenizerBase, token: str | None = None) -> int:
    """The token between documents: the given one, else the tokenizer's bos token, else its eos token.

    Raises:
        ValueError: if the tokenizer does not have it.
    """
    if token is not None:
        if token not in (vocabulary := tokenizer.get_vocab()):
            known = ", ".join(repr(name) for name in tokenizer.all_special_tokens)
            raise ValueError(f"boundary_token {token!r} is no token of the tokenizer; its special tokens are {known}")
        return int(vocabulary[token])
    for token_id in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    raise ValueError(
        f"expected a tokenizer with a bos or eos token to put between documents; {type(tokenizer).__name__} has "
        "neither: set corpus.boundary_token"
    )


def is_held_out(text: str, fraction: float, seed: int) -> bool:
    """Whether a document belongs to the held-out part: decided by its text and the seed alone.

    So neither the order of the documents nor how many are read moves one across, and copies of a document never
    stand on both sides.
    """
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=seed.to_bytes(8, "little"))
    return int.from_bytes(digest.digest(), "little") < fraction * 2.0**64


def write_contexts(
    folder: Path,
    documents: Dataset | IterableDataset | Iterable[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    config: CorpusConfig,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Pack documents (records with a ``text``) into ``train.parquet`` and ``held_out.parquet``.

    Columns: context_id (int64, from 0), token_ids and document_ids (fixed-size lists of int32). Document ids count
    the documents as read, over both splits; boundary tokens have -1. Tokens after the last full context of a split
    are left out. Memory holds one block of contexts at a time.

    Returns:
        A ``CorpusSummary`` as JSON values.

    Raises:
        ValueError: if there is no text, or too little of it for one context in either split.
    """
    length, most = config.context_length, config.n_tokens
    if most is not None and most < 2 * length:
        raise ValueError(
            f"n_tokens must hold a context of {length} tokens in each split: got {most}; raise n_tokens to at least "
            f"{2 * length} or lower context_length"
        )
    boundary = boundary_token_id(tokenizer, config.boundary_token)
    files = {name: SplitFile(folder / f"{name}.parquet", length) for name in SPLITS}
    n_documents, counts = dict.fromkeys(SPLITS, 0), {"skipped": 0}
    for name in _pack(_tokenized(documents, tokenizer, counts), files, boundary, config, progress or silent):
        n_documents[name] += 1
    _refuse_too_little(files, n_documents, config)
    for file in files.values():
        file.finish()
    return CorpusSummary(
        n_documents={name: n_documents[name] for name in SPLITS},
        n_skipped=counts["skipped"],
        n_contexts={name: file.n_contexts for name, file in files.items()},
        n_tokens=sum(file.n_contexts for file in files.values()) * length,
        context_length=length,
        boundary_token_id=boundary,
    ).model_dump(mode="json")


def _pack(
    tokenized: Iterable[tuple[str, list[int]]],
    files: Mapping[SplitName, SplitFile],
    boundary: int,
    config: CorpusConfig,
    progress: Progress,
) -> Iterator[SplitName]:
    """Pack documents into the files of their splits until there are ``n_tokens``; yields each document's split."""
    length, most = config.context_length, config.n_tokens
    packers = {name: Packer(length, boundary) for name in SPLITS}
    n_contexts = 0
    for document, (text, tokens) in enumerate(tokenized):
        name: SplitName = "held_out" if is_held_out(text, config.held_out_fraction, config.seed) else "train"
        packers[name].add(tokens, document)
        full = packers[name].take()[: None if most is None else most // length - n_contexts]
        files[name].extend(full)
        n_contexts += len(full)
        yield name
        if full:
            progress(n_contexts * length, most or 0, f"{document + 1:,} documents, {n_contexts * length:,} tokens")
        if most is not None and n_contexts == most // length:
            return


def _refuse_too_little(
    files: Mapping[SplitName, SplitFile], n_documents: Mapping[SplitName, int], config: CorpusConfig
) -> None:
    if not any(n_documents.values()):
        raise ValueError("the corpus is empty: expected documents with text, got none; check corpus.source")
    for name, file in files.items():
        if file.n_contexts == 0:
            raise ValueError(
                f"the {name} part has too few tokens for one context of {config.context_length}: it got "
                f"{n_documents[name]} of {sum(n_documents.values())} documents; read more text, lower context_length, "
                f"or change held_out_fraction={config.held_out_fraction:g} or the corpus seed"
            )


def _tokenized(
    documents: Iterable[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, counts: dict[str, int]
) -> Iterator[tuple[str, list[int]]]:
    """Each document's text and token ids, without special tokens; those without text are counted and left out.

    Text that looks like a special token (``<|endoftext|>`` inside a document) is tokenized as text.
    """
    batch: list[str] = []

    def tokenize() -> Iterator[tuple[str, list[int]]]:
        options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        ids = tokenizer(batch, return_attention_mask=False, **options)["input_ids"] if batch else []
        yield from zip(batch, ids, strict=True)

    for record in documents:
        text = record["text"]
        if not isinstance(text, str) or not text.strip():
            counts["skipped"] += 1
            continue
        batch.append(text)
        if len(batch) == _BATCH_DOCUMENTS:
            yield from tokenize()
            batch = []
    yield from tokenize()


@dataclass(frozen=True)
class ContextSplit:
    """The contexts of one split; read from the file when they are first used."""

    path: Path
    context_length: int

    @cached_property
    def token_ids(self) -> Int32[ndarray, "n length"]:
        """Token ids; a context is a row."""
        return self._column("token_ids")

    @cached_property
    def document_ids(self) -> Int32[ndarray, "n length"]:
        """Which document a token belongs to, counted over both splits; -1 on boundary tokens."""
        return self._column("document_ids")

    @cached_property
    def n_contexts(self) -> int:
        """Number of contexts; reads no token."""
        return int(pq.read_metadata(self.path).num_rows)

    def _column(self, name: str) -> ndarray:
        column: Any = pq.read_table(self.path, columns=[name])[name].combine_chunks()
        return np.asarray(column.flatten()).reshape(-1, self.context_length)


@dataclass(frozen=True)
class Contexts:
    """A folder written by ``write_contexts``."""

    folder: Path
    context_length: int

    def split(self, name: SplitName) -> ContextSplit:
        """The contexts of one split."""
        return ContextSplit(self.folder / f"{name}.parquet", self.context_length)


def open_contexts(folder: str | Path) -> Contexts:
    """The contexts in a folder.

    Raises:
        FileNotFoundError: if there are none.
    """
    folder = Path(folder)
    for name in SPLITS:
        if not (folder / f"{name}.parquet").is_file():
            raise FileNotFoundError(
                f"no contexts in {folder}: {name}.parquet is missing; pack a corpus with write_contexts first"
            )
    kind = pq.read_schema(folder / "train.parquet").field("token_ids").type
    return Contexts(folder, kind.list_size)
