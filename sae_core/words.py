"""Whole words out of token ids, so that explanations speak in words where the tokenizer splits them.

Place in the flow: packed contexts -> **words** -> feature contexts -> explanations. Works for byte-level BPE
(GPT-2, GPT-NeoX, SmolLM2) and SentencePiece tokenizers (Llama, Gemma): a word is a run of tokens with no space
inside whose characters are of one kind (letters and digits, or a single punctuation token).
"""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

_BLOCK_CONTEXTS = 4096
_MAX_WORD_TOKENS = 16
"""Scripts without spaces would make a word of a whole sentence; it is cut after so many tokens."""
_OTHER, _LETTERS, _SPACE, _GLUE = 0, 1, 2, 3
"""Kinds of characters; ``_GLUE`` is a token of spaces alone, which some tokenizers put before a number."""
_WHITESPACE_NAMES = {" ": "space", "\n": "line break", "\t": "tab", "\r": "carriage return"}


def _kind(character: str) -> int:
    if character.isspace():
        return _SPACE
    # U+FFFD is a part of a character that the tokenizer split; it belongs to the word around it.
    return _LETTERS if character.isalnum() or character == "\ufffd" or unicodedata.combining(character) else _OTHER


class Segmenter:
    """Says where words begin in rows of token ids.

    Args:
        tokenizer: a transformers tokenizer.
        special_token_ids: tokens that belong to no word (boundaries between documents).
    """

    def __init__(self, tokenizer: Any, special_token_ids: frozenset[int]):
        self.tokenizer = tokenizer
        self.special_token_ids = special_token_ids
        self._known = np.zeros(0, dtype=bool)
        self._first = np.zeros(0, dtype=np.int8)
        self._last = np.zeros(0, dtype=np.int8)
        self._breaks = np.zeros(0, dtype=bool)

    def decode(self, token_ids: Any) -> str:
        """Text of a run of tokens, as it stood in the corpus."""
        ids = [int(token) for token in token_ids]
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)) if ids else ""

    def is_special(self, token_ids: Int[np.ndarray, "*shape"]) -> Bool[np.ndarray, "*shape"]:
        """True where a token stands for no text."""
        special: np.ndarray = np.isin(token_ids, list(self.special_token_ids))
        return special

    def starts(self, token_ids: Int[np.ndarray, "n length"]) -> Bool[np.ndarray, "n length"]:
        """True where a token begins a word; special tokens are words of their own."""
        self._learn(token_ids)
        first, last, special = self._first[token_ids], self._last[token_ids], self.is_special(token_ids)
        starts: np.ndarray = self._breaks[token_ids]
        starts[:, 1:] |= first[:, 1:] != last[:, :-1]
        starts[:, 1:] &= last[:, :-1] != _GLUE
        starts |= special
        starts[:, 1:] |= special[:, :-1]
        starts[:, 0] = True
        inside = np.arange(token_ids.shape[1]) - _position_of_start(starts)
        starts |= inside % _MAX_WORD_TOKENS == 0
        return starts

    def whole_words(self, token_ids: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """True for tokens that are a word, or the beginning of one, of two letters or more."""
        self._learn(token_ids)
        letters = [len(text) > 1 and text.isalpha() for text in (self.decode([token]).strip() for token in token_ids)]
        found: np.ndarray = np.array(letters, dtype=bool) & self._breaks[token_ids] & ~self.is_special(token_ids)
        return found

    def _learn(self, token_ids: np.ndarray) -> None:
        size = int(token_ids.max(initial=-1)) + 1
        if size > len(self._known):
            more = size - len(self._known)
            self._known, self._breaks = np.pad(self._known, (0, more)), np.pad(self._breaks, (0, more))
            self._first, self._last = np.pad(self._first, (0, more)), np.pad(self._last, (0, more))
        for token in np.unique(token_ids):
            if not self._known[token]:
                self._learn_token(int(token))

    def _learn_token(self, token: int) -> None:
        text, twice = self.decode([token]), self.decode([token, token])
        body = text.strip()
        first, last = (_kind(body[0]), _kind(body[-1])) if body else (_SPACE, _SPACE)
        if not twice.strip(" "):
            last = _GLUE
        elif text[-1:].isspace():
            last = _SPACE
        self._known[token], self._first[token], self._last[token] = True, first, last
        # A second copy shows the space before a word, which SentencePiece drops at the beginning of a text.
        self._breaks[token] = first != _LETTERS or twice[len(text) : len(text) + 1].isspace()


def _position_of_start(starts: np.ndarray) -> np.ndarray:
    """For each token, the position at which its word begins. (n, length)"""
    return np.maximum.accumulate(np.where(starts, np.arange(starts.shape[1]), 0), axis=1)


@dataclass(frozen=True)
class Words:
    """The distinct words of a corpus, upper and lower case taken together, with their counts."""

    texts: list[str]
    """How a word is shown: its most frequent spelling; punctuation by its name."""
    counts: Int[np.ndarray, " n_words"]
    """Tokens of the corpus inside the word."""
    segmenter: Segmenter
    _hashes: np.ndarray
    _word_of_hash: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)

    def find(self, token_ids: Int[np.ndarray, "n length"]) -> Int[np.ndarray, "n length"]:
        """Word of each token, -1 on special tokens. The rows must be of the corpus the words were read from."""
        starts = self.segmenter.starts(token_ids)
        hashes, word = _hash_words(token_ids, starts)
        at = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        if not np.array_equal(self._hashes[at], hashes):
            raise ValueError("a word is not among those of this corpus: pass rows of the contexts given to read_words")
        words: np.ndarray = self._word_of_hash[at][word].reshape(token_ids.shape)
        words[self.segmenter.is_special(token_ids)] = -1
        return words


def _hash_words(token_ids: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A 64-bit hash of the tokens of each word (in reading order), and for each token the number of its word."""
    inside = (np.arange(token_ids.shape[1]) - _position_of_start(starts)).ravel().astype(np.uint64)
    mixed = mix(token_ids.ravel().astype(np.uint64) * np.uint64(2 * _MAX_WORD_TOKENS) + inside)
    first = np.flatnonzero(starts.ravel())
    return np.add.reduceat(mixed, first), np.cumsum(starts.ravel()) - 1


def mix(values: np.ndarray) -> np.ndarray:
    """The splitmix64 finaliser: 64-bit integers to well-mixed 64-bit integers."""
    with np.errstate(over="ignore"):
        z = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def _blocks(token_ids: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(token_ids), _BLOCK_CONTEXTS):
        yield np.asarray(token_ids[start : start + _BLOCK_CONTEXTS])


def read_words(token_ids: Int[np.ndarray, "n length"], segmenter: Segmenter) -> Words:
    """Every distinct word of a corpus, counted. Memory grows with the distinct words, not with the corpus.

    Raises:
        ValueError: if there is no context.
    """
    if len(token_ids) == 0:
        raise ValueError("no words to read: expected at least one context, got none; read more tokens")
    counts: dict[int, int] = {}
    spelling: dict[int, tuple[int, ...]] = {}
    for block in _blocks(token_ids):
        starts = segmenter.starts(block)
        hashes, word = _hash_words(block, starts)
        length = np.bincount(word)
        found, where, inverse = np.unique(hashes, return_index=True, return_inverse=True)
        tokens = np.bincount(inverse, weights=length)
        first = np.flatnonzero(starts.ravel())
        for key, index, count in zip(found.tolist(), where.tolist(), tokens.tolist(), strict=True):
            counts[key] = counts.get(key, 0) + int(count)
            if key not in spelling:
                spelling[key] = tuple(block.ravel()[first[index] : first[index] + length[index]].tolist())
    return _merge_spellings(counts, spelling, segmenter)


def _merge_spellings(counts: dict[int, int], spelling: dict[int, tuple[int, ...]], segmenter: Segmenter) -> Words:
    # The most frequent spelling names the word: by how often it stands there, not by the tokens it takes.
    keys = sorted(counts, key=lambda key: (-counts[key] / len(spelling[key]), spelling[key]))
    index: dict[str, int] = {}
    texts: list[str] = []
    totals: list[int] = []
    word_of: dict[int, int] = {}
    for key in keys:
        if segmenter.special_token_ids.issuperset(spelling[key]):
            word_of[key] = -1
            continue
        text = name_word(segmenter.decode(spelling[key]))
        word = index.setdefault(text.casefold(), len(texts))
        if word == len(texts):
            texts.append(text)
            totals.append(0)
        totals[word] += counts[key]
        word_of[key] = word
    hashes = np.array(sorted(counts), dtype=np.uint64)
    return Words(
        texts,
        np.array(totals, dtype=np.int64),
        segmenter,
        hashes,
        np.array([word_of[int(key)] for key in hashes], dtype=np.int64),
    )


def name_word(text: str) -> str:
    """How a word is written in an explanation: itself, or what its punctuation is called (``,`` is "comma").

    A sentence embedder reads names, and a list of words separated by commas stays readable.
    """
    body = text.strip()
    if any(character.isalnum() for character in body):
        return body
    if not body:
        return _WHITESPACE_NAMES.get(text[:1], "space") if text else "nothing"
    named = [unicodedata.name(character, "symbol").lower() for character in body[:3]]
    return " ".join(dict.fromkeys(named))
