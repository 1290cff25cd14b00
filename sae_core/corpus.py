"""Text as contexts of token ids: documents are read, split into training and held-out ones, and packed.

First stage of the flow: language model + corpus -> activations. A context has exactly ``context_length`` tokens. It
begins with the boundary token, which also stands between documents; a document longer than what is left of a
context goes on in the next one.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, IterableDataset
from jaxtyping import Int32
from numpy import ndarray
from transformers import PreTrainedTokenizerBase

from sae_core.config import CorpusConfig, Result
from sae_core.corpus_sources import corpus_digest, load_documents
from sae_core.progress import Progress, silent

__all__ = ["Contexts", "ContextSplit", "CorpusSummary", "corpus_digest", "load_documents", "open_contexts", "write_contexts"]

SPLITS: tuple[Literal["train"], Literal["held_out"]] = ("train", "held_out")
_BATCH_DOCUMENTS = 256
_FLUSH_CONTEXTS = 8192


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


class Packer:
    """Cuts a stream of documents into contexts of exactly ``length`` tokens.

    Args:
        boundary: token at position 0 and between documents; its document id is -1.
    """

    def __init__(self, length: int, boundary: int):
        self.length, self.boundary = length, boundary
        self._full: list[tuple[ndarray, ndarray]] = []
        self._begin()

    def _begin(self) -> None:
        self._tokens = np.full(self.length, self.boundary, np.int32)
        self._documents = np.full(self.length, -1, np.int32)
        self._at = 1

    def _advance(self, n: int) -> None:
        self._at += n
        if self._at == self.length:
            self._full.append((self._tokens, self._documents))
            self._begin()

    def add(self, tokens: list[int], document: int) -> None:
        """Append a document."""
        done = 0
        while done < len(tokens):
            n = min(len(tokens) - done, self.length - self._at)
            here = slice(self._at, self._at + n)
            self._tokens[here], self._documents[here] = tokens[done : done + n], document
            self._advance(n)
            done += n
        if self._at > 1:  # a context that only just began has its boundary already
            self._advance(1)

    def take(self) -> list[tuple[ndarray, ndarray]]:
        """Token ids and document ids of the contexts that are full; the rest stays for later documents."""
        full, self._full = self._full, []
        return full


class _SplitFile:
    """One split's Parquet file, written in blocks of contexts."""

    def __init__(self, path: Path, length: int):
        self.path, self.part, self.n_contexts = path, path.with_name(path.name + ".part"), 0
        tokens = pa.list_(pa.field("item", pa.int32(), nullable=False), length)
        names = ("token_ids", "document_ids")
        fields = [pa.field("context_id", pa.int64(), nullable=False)]
        self.schema = pa.schema(fields + [pa.field(name, tokens, nullable=False) for name in names])
        self._rows: list[tuple[ndarray, ndarray]] = []
        self._writer = pq.ParquetWriter(self.part, self.schema, compression="zstd")

    def extend(self, contexts: list[tuple[ndarray, ndarray]]) -> None:
        self._rows += contexts
        self.n_contexts += len(contexts)
        if len(self._rows) >= _FLUSH_CONTEXTS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            ids = np.arange(self.n_contexts - len(self._rows), self.n_contexts, dtype=np.int64)
            kind = self.schema.field("token_ids").type
            columns = [np.concatenate([row[i] for row in self._rows]) for i in range(2)]
            lists = [pa.FixedSizeListArray.from_arrays(pa.array(column), type=kind) for column in columns]
            self._writer.write_table(pa.Table.from_arrays([pa.array(ids), *lists], schema=self.schema))
            self._rows = []

    def finish(self) -> None:
        self._flush()
        self._writer.close()
        os.replace(self.part, self.path)


def boundary_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token between documents: the beginning-of-text token where there is one, else the end-of-text token.

    Raises:
        ValueError: if the tokenizer has neither.
    """
    for token_id in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    raise ValueError(
        f"expected a tokenizer with a bos or eos token to put between documents; {type(tokenizer).__name__} has "
        "neither: set tokenizer.eos_token and save it again"
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
    progress = progress or silent
    length, most = config.context_length, config.n_tokens or 0
    if config.n_tokens is not None and most < 2 * length:
        raise ValueError(
            f"n_tokens must hold a context of {length} tokens in each split: got {most}; raise n_tokens to at least "
            f"{2 * length} or lower context_length"
        )
    boundary = boundary_token_id(tokenizer)
    files = {name: _SplitFile(folder / f"{name}.parquet", length) for name in SPLITS}
    packers = {name: Packer(length, boundary) for name in SPLITS}
    n_documents, counts = dict.fromkeys(SPLITS, 0), {"skipped": 0}
    room = most // length if config.n_tokens is not None else None
    for document, (text, tokens) in enumerate(_tokenized(documents, tokenizer, counts)):
        name = "held_out" if is_held_out(text, config.held_out_fraction, config.seed) else "train"
        n_documents[name] += 1
        packers[name].add(tokens, document)
        full = packers[name].take()[:room]
        files[name].extend(full)
        n_contexts = sum(file.n_contexts for file in files.values())
        if full:
            progress(n_contexts * length, most, f"{document + 1:,} documents, {n_contexts * length:,} tokens")
        if room is not None:
            room -= len(full)
            if room == 0:
                break
    _refuse_too_little(files, n_documents, config)
    for file in files.values():
        file.finish()
    return CorpusSummary(
        n_documents=dict(n_documents),
        n_skipped=counts["skipped"],
        n_contexts={name: file.n_contexts for name, file in files.items()},
        n_tokens=sum(file.n_contexts for file in files.values()) * length,
        context_length=length,
        boundary_token_id=boundary,
    ).model_dump(mode="json")


def _refuse_too_little(files: dict[str, _SplitFile], n_documents: dict[str, int], config: CorpusConfig) -> None:
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
        return self._column("token_ids")

    @cached_property
    def document_ids(self) -> Int32[ndarray, "n length"]:
        """Which document a token belongs to, counted over both splits; -1 on boundary tokens."""
        return self._column("document_ids")

    @cached_property
    def n_contexts(self) -> int:
        return int(pq.read_metadata(self.path).num_rows)

    def _column(self, name: str) -> ndarray:
        column = pq.read_table(self.path, columns=[name])[name].combine_chunks()
        return column.flatten().to_numpy().reshape(-1, self.context_length)


@dataclass(frozen=True)
class Contexts:
    """A folder written by ``write_contexts``."""

    folder: Path
    context_length: int

    def split(self, name: Literal["train", "held_out"]) -> ContextSplit:
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
            raise FileNotFoundError(f"no contexts in {folder}: {name}.parquet is missing; pack a corpus with write_contexts first")
    kind = pq.read_schema(folder / "train.parquet").field("token_ids").type
    return Contexts(folder, kind.list_size)
