"""Documents cut into contexts of equal length, and the Parquet file they are written to."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy import ndarray

_FLUSH_CONTEXTS = 8192


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


class SplitFile:
    """One split's Parquet file, written in blocks of contexts; it has its name only when it is whole."""

    def __init__(self, path: Path, length: int):
        self.path, self.part, self.n_contexts = path, path.with_name(path.name + ".part"), 0
        tokens = pa.list_(pa.field("item", pa.int32(), nullable=False), length)
        names = ("token_ids", "document_ids")
        fields = [pa.field("context_id", pa.int64(), nullable=False)]
        self.schema = pa.schema(fields + [pa.field(name, tokens, nullable=False) for name in names])
        self._rows: list[tuple[ndarray, ndarray]] = []
        self._writer = pq.ParquetWriter(self.part, self.schema, compression="zstd")

    def extend(self, contexts: list[tuple[ndarray, ndarray]]) -> None:
        """Append contexts: token ids and document ids."""
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
        """Close the file and give it its name."""
        self._flush()
        self._writer.close()
        os.replace(self.part, self.path)
