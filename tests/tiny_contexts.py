"""Small tokenizers, contexts and shards whose activations are the codes themselves, for the tests of explanations."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sae_core.architectures import Sae, build
from sae_core.config import ContextsConfig, StandardConfig
from sae_core.corpus import ContextSplit
from sae_core.feature_contexts import FeatureContexts, collect_contexts, read_contexts
from sae_core.held_out_text import HeldOutText
from sae_core.packing import Packer
from sae_core.shards import ShardData, Shards, write_shards
from sae_core.words import Segmenter

TEXT = "the dog and the horse saw the dogs, unhappily. In 1945 the horse ran (far) from unhappiness and the doghouse"


def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2 and SmolLM2: a space belongs to the word after it, digits stand alone."""
    tokenizer = Tokenizer(models.BPE())
    parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=["<eos>"], show_progress=False
    )
    tokenizer.train_from_iterator(["the dog the dog and the horse saw happy happy the un the dog"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


def sentence_piece() -> PreTrainedTokenizerFast:
    """As Llama 2 and Gemma: a space is written U+2581 and dropped at the beginning of a text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁[a-zA-Z]*|[0-9]|[^a-zA-Z▁]"), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["<eos>", "<unk>"], show_progress=False)
    tokenizer.train_from_iterator([TEXT, "the dog the dog and the horse"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>")


def write_split(folder: Path, token_ids: np.ndarray, document_ids: np.ndarray) -> ContextSplit:
    """Contexts as ``write_contexts`` leaves them."""
    length = token_ids.shape[1]
    columns = {"context_id": pa.array(np.arange(len(token_ids)), pa.int64())}
    for name, values in (("token_ids", token_ids), ("document_ids", document_ids)):
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), pa.int32()), length)
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / "held_out.parquet")
    return ContextSplit(folder / "held_out.parquet", length)


def write_codes(folder: Path, codes: np.ndarray, contexts: ContextSplit, shard_contexts: int = 3) -> Shards:
    """Shards of given codes (contexts, length, features): boundaries and position 0 are left out."""
    kept = contexts.document_ids >= 0
    kept[:, 0] = False
    shards = []
    for start in range(0, len(codes), shard_contexts):
        row, position = np.nonzero(kept[start : start + shard_contexts])
        row = row + start
        tokens = contexts.token_ids[row, position].astype(np.int32)
        values = torch.from_numpy(codes[row, position].astype(np.float32))
        shards.append(ShardData(values, tokens, row.astype(np.int64), position.astype(np.int32)))
    return write_shards(folder, shards, "float32")


def identity_sae(n: int) -> Sae:
    """An SAE whose codes are its positive inputs."""
    sae = build(StandardConfig(d_sae=n, l1_coefficient=1.0), n, 0)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(n))
        sae.W_dec.copy_(torch.eye(n))
    return sae


ANIMALS = ("dog", "cat", "horse", "sheep", "goose")
ACTIONS = ("running", "eating", "sleeping", "saw", "found", "liked")
OTHERS = ("the", "a", "of", "in", "house", "garden", "king", "river", "red", "quiet", "old", "and")
PLANTED = ("dog", "ing", "after of", "number", "noise", "dead", "everywhere", "twice")
"""Features of the made-up world by their id. ``dog``: on that word; ``ing``: on the last token of words with that
ending; ``after of``: on the word after "of"; ``number``: on digits; ``noise``: on random tokens; ``dead``: nowhere;
``everywhere``: on every token; ``twice``: on the first token of one document in each half."""
SMALL = ContextsConfig(before=7, after=4, n_strongest=3, n_quantiles=2, n_per_quantile=2, n_negatives=3, n_words=12)


@dataclass(frozen=True)
class MadeUpWorld:
    """Text of a small language, and an SAE with planted features whose contexts were collected."""

    text: HeldOutText
    contexts: FeatureContexts
    codes: np.ndarray
    """(tokens, features) over the held-out text, as planted."""
    sae: Sae
    shards: Shards

    def place(self, name: str) -> int:
        """Place of a planted feature; ``dead`` has none."""
        return self.contexts.features.tolist().index(PLANTED.index(name))


def made_up_contexts(
    folder: Path, n_documents: int = 160, context_length: int = 64, seed: int = 0, config: ContextsConfig = SMALL
) -> MadeUpWorld:
    """Write a made-up world into a folder and collect its contexts. Takes about a second; share it in a fixture."""
    rng = np.random.default_rng(seed)
    documents = [_made_up_document(rng) for _ in range(n_documents)]
    tokenizer = _word_pieces(documents)
    contexts = _packed(folder / "contexts", documents, tokenizer, context_length)
    text = HeldOutText(contexts, Segmenter(tokenizer, frozenset(tokenizer.all_special_ids)))
    codes = _planted_codes(text, rng)
    shards = write_codes(folder / "shards", codes.reshape(contexts.n_contexts, context_length, -1), contexts)
    (folder / "collected").mkdir()
    sae = identity_sae(len(PLANTED))
    collect_contexts(folder / "collected", sae, shards, text, None, config)
    return MadeUpWorld(text, read_contexts(folder / "collected"), codes, sae, shards)


def _made_up_document(rng: np.random.Generator) -> str:
    words = []
    for _ in range(int(rng.integers(3, 9))):
        number = [str(rng.integers(1, 3000))] if rng.random() < 0.3 else []
        words += [rng.choice(OTHERS), *number, rng.choice(ANIMALS), rng.choice(ACTIONS), *rng.choice(OTHERS, 3)]
    return " ".join(str(word) for word in words) + "."


def _word_pieces(documents: list[str]) -> PreTrainedTokenizerFast:
    """As ``byte_level``, with whole words of the text and some in two pieces."""
    tokenizer = Tokenizer(models.BPE())
    parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=alphabet, special_tokens=["<eos>"], show_progress=False
    )
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


def _packed(folder: Path, documents: list[str], tokenizer: PreTrainedTokenizerFast, length: int) -> ContextSplit:
    """Documents behind one another, a boundary before each and at the beginning of each context."""
    packer = Packer(length, tokenizer.eos_token_id)
    for number, document in enumerate(documents):
        packer.add(tokenizer.encode(document, add_special_tokens=False), number)
    token_ids, document_ids = (np.stack(column) for column in zip(*packer.take(), strict=True))
    return write_split(folder, token_ids, document_ids)


def _planted_codes(text: HeldOutText, rng: np.random.Generator) -> np.ndarray:
    words = np.array([*text.words.texts, ""])
    now, before = words[text.word], words[text.word_before]
    last = np.append(text.word_starts[1:], True)
    fires = np.zeros((len(text), len(PLANTED)), bool)
    fires[:, 0] = now == "dog"
    fires[:, 1] = np.char.endswith(now, "ing") & last
    fires[:, 2] = before == "of"
    fires[:, 3] = np.char.isdigit(now)
    fires[:, 4] = rng.random(len(text)) < 0.04
    fires[:, 6] = True
    for half in (0, 1):
        document = text.document_ids[text.half == half][5]
        fires[np.flatnonzero(text.document_ids == document)[2], 7] = True
    codes = fires * rng.uniform(1.0, 3.0, fires.shape).astype(np.float32)
    codes[text.half < 0] = 0
    return codes.astype(np.float32)
