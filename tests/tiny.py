"""A tiny language model with a tokenizer, and a tiny corpus, made on the spot."""

import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sae_core.config import ModelConfig

WORDS = [f"{first}{second}" for first in "bdfgklmnprst" for second in ("a", "e", "i", "o", "u")]


def make_corpus(path: Path, n_documents: int = 300, seed: int = 0) -> Path:
    """A ``.jsonl`` file of documents with runs of the same few words, so that there is something to find."""
    rng = np.random.default_rng(seed)
    with open(path, "w") as file:
        for _ in range(n_documents):
            topic = rng.choice(len(WORDS), size=6, replace=False)
            words = [WORDS[rng.choice(topic)] for _ in range(rng.integers(20, 60))]
            file.write(json.dumps({"text": " ".join(words)}) + "\n")
    return path


def make_model(folder: Path, seed: int = 0, d_model: int = 32, n_layers: int = 3) -> Path:
    """A randomly initialised Llama with a word tokenizer, in the layout of ``save_pretrained``."""
    vocabulary = {"<eos>": 0, "<unk>": 1} | {word: index + 2 for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=d_model,
        intermediate_size=2 * d_model,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        eos_token_id=0,
        bos_token_id=0,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return folder


def model_config(folder: Path) -> ModelConfig:
    """A model file of such a model and corpus, which are made in this folder."""
    return ModelConfig.model_validate(
        {
            "name": "tiny-llama",
            "source": {"kind": "local", "path": str(make_model(folder / "model"))},
            "corpus": {
                "source": {"kind": "local", "path": str(make_corpus(folder / "corpus.jsonl"))},
                "context_length": 32,
            },
            "hooks": ["model.layers.1"],
            "dtype": "float32",
            "activations": {"shard_tokens": 2048},
        }
    )
