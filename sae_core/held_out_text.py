"""The held-out text as one row of tokens, with the words, documents and corpus halves they belong to.

Place in the flow: packed contexts -> **held-out text** -> feature contexts, explanations, scores. Token t is position
``t % context_length`` of context ``t // context_length``. Special tokens belong to no document, half or word: -1.
"""

from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int, Int8, Int32, Int64, UInt8

from sae_core.corpus import ContextSplit
from sae_core.words import Segmenter, Words, mix, read_words

_UNFINISHED = "\ufffd"
"""What a decoder puts in place of a character whose last bytes are in a later token."""
_MAX_PENDING = 16
"""Tokens that are waited for until a character is complete; more only if the text is broken."""


def halves(document_ids: Int[np.ndarray, "*shape"]) -> Int8[np.ndarray, "*shape"]:
    """Half of the text, 0 or 1, that a document belongs to; -1 for tokens of no document."""
    return np.where(document_ids < 0, -1, (mix(document_ids) & np.uint64(1)).astype(np.int8)).astype(np.int8)


class HeldOutText:
    """The tokens of the held-out contexts, one context behind the other. What is not asked for is never computed.

    Args:
        contexts: the held-out part of the corpus.
        segmenter: knows the words and special tokens of the tokenizer that packed it.
    """

    def __init__(self, contexts: ContextSplit, segmenter: Segmenter):
        self.contexts, self.segmenter = contexts, segmenter
        self._decoded: dict[tuple[int, ...], str] = {}

    def __len__(self) -> int:
        return self.contexts.n_contexts * self.context_length

    @property
    def context_length(self) -> int:
        """Tokens of a context."""
        return self.contexts.context_length

    @cached_property
    def token_ids(self) -> Int32[np.ndarray, " n"]:
        """Token ids."""
        return self.contexts.token_ids.reshape(-1)

    @cached_property
    def document_ids(self) -> Int32[np.ndarray, " n"]:
        """Which document a token belongs to."""
        return self.contexts.document_ids.reshape(-1)

    @cached_property
    def half(self) -> Int8[np.ndarray, " n"]:
        """Half of the text that the token's document belongs to, 0 or 1. It depends on the document's number alone."""
        return halves(self.document_ids)

    @cached_property
    def words(self) -> Words:
        """The distinct words."""
        return read_words(self.contexts.token_ids, self.segmenter)

    @cached_property
    def word(self) -> Int64[np.ndarray, " n"]:
        """Number of the word that each token is a piece of."""
        return self.words.find(self.contexts.token_ids).reshape(-1).astype(np.int64)

    @cached_property
    def word_starts(self) -> Bool[np.ndarray, " n"]:
        """True where a token begins a word; special tokens are words of their own."""
        return self.segmenter.starts(self.contexts.token_ids).reshape(-1)

    @cached_property
    def word_before(self) -> Int64[np.ndarray, " n"]:
        """Number of the word before that of each token; -1 where its document begins in this context."""
        first = np.maximum.accumulate(np.where(self.word_starts, np.arange(len(self)), 0))
        found = np.where(first > self.segment_begin, self.word[first - 1], -1)
        return np.where(self.word < 0, -1, found)

    @cached_property
    def word_after(self) -> Int64[np.ndarray, " n"]:
        """Number of the word after that of each token; -1 where its document ends in this context."""
        starts = np.append(np.flatnonzero(self.word_starts), len(self))
        following = starts[np.cumsum(self.word_starts)]
        found = np.where(following < self.segment_end, np.append(self.word, -1)[following], -1)
        return np.where(self.word < 0, -1, found)

    @cached_property
    def segment_begin(self) -> Int64[np.ndarray, " n"]:
        """First token of the same document in the same context."""
        first, size = self._segments
        return np.repeat(first, size)

    @cached_property
    def segment_end(self) -> Int64[np.ndarray, " n"]:
        """One past the last token of the same document in the same context."""
        first, size = self._segments
        return np.repeat(first + size, size)

    @cached_property
    def _segments(self) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
        """First token and length of each run of tokens of one document in one context."""
        fresh = np.diff(self.document_ids, prepend=self.document_ids[:1]) != 0
        fresh[:: self.context_length] = True
        first = np.flatnonzero(fresh).astype(np.int64)
        return first, np.diff(first, append=len(fresh))

    def window(self, token: int, before: int, after: int) -> tuple[int, int]:
        """[start, stop) of the tokens about a token, so many before and after it, as far as its document goes."""
        start = max(int(self.segment_begin[token]), token - before)
        return start, min(int(self.segment_end[token]), token + after + 1)

    def text(self, start: int, stop: int) -> str:
        """Text of the tokens [start, stop) as it stands in the corpus, with the space before its first word."""
        return "".join(self.pieces(start, stop))

    def pieces(self, start: int, stop: int) -> list[str]:
        """A string a token; together they are the text. A character of several tokens stands with the last of them."""
        return self._pieces[start:stop]

    @cached_property
    def _pieces(self) -> list[str]:
        pieces: list[str] = []
        pending: tuple[int, ...] = ()
        n = np.arange(1, len(self) + 1)
        for token, at_end in zip(self.token_ids.tolist(), (self.segment_end == n).tolist(), strict=True):
            pending += (token,)
            piece = self._decode(pending)
            if piece.endswith(_UNFINISHED) and len(pending) < _MAX_PENDING and not at_end:
                pieces.append("")
            else:
                pieces.append(piece)
                pending = ()
        return pieces

    @cached_property
    def utf8(self) -> tuple[UInt8[np.ndarray, " bytes"], Int64[np.ndarray, " starts"]]:
        """All pieces in UTF-8, one behind the other, and where each begins (with the end of the last)."""
        encoded = [piece.encode() for piece in self._pieces]
        starts = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum([len(piece) for piece in encoded], out=starts[1:])
        return np.frombuffer(b"".join(encoded), dtype=np.uint8), starts

    def marked(self, start: int, stop: int, marked: Bool[np.ndarray, " m"], left: str = "<<", right: str = ">>") -> str:
        """The text with runs of marked tokens between two delimiters, the space before a word inside them as in delphi.

        Args:
            marked: of the tokens [start, stop).
        """
        pieces = self.pieces(start, stop)
        change = np.diff(marked.astype(np.int8), prepend=0, append=0)
        for i in np.flatnonzero(change > 0).tolist():
            pieces[i] = left + pieces[i]
        for i in np.flatnonzero(change < 0).tolist():
            pieces[i - 1] += right
        return "".join(pieces)

    def _decode(self, tokens: tuple[int, ...]) -> str:
        """Text of some tokens inside a text: SentencePiece drops the space at the beginning, a second copy shows it."""
        if tokens not in self._decoded:
            leading = self.segmenter.decode(tokens)
            self._decoded[tokens] = self.segmenter.decode(tokens + tokens)[len(leading) :]
        return self._decoded[tokens]
