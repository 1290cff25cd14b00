"""Small tokenizers, contexts and shards whose activations are the codes themselves, for the tests of explanations."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from sae_core.architectures import Sae, build
from sae_core.config import StandardConfig
from sae_core.corpus import ContextSplit
from sae_core.shards import ShardData, Shards, write_shards

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
