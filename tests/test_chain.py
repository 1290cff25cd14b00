"""The stages as artifacts, without Dagster."""

import json

from sae_core.chain import make_contexts
from sae_core.config import ModelConfig
from tests.tiny import WORDS, make_model


def test_another_column_of_the_same_files_is_another_text(store, tmp_path):
    texts = [{"text": f"ba be {word} " * 40, "body": f"ko ku {word} " * 40} for word in WORDS]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, texts)))
    source = {"kind": "local", "path": str(tmp_path / "corpus.jsonl")}
    model = {"kind": "local", "path": str(make_model(tmp_path / "model"))}

    def contexts(column):
        corpus = {"source": source | {"column": column}, "context_length": 32}
        settings = {"name": "tiny", "source": model, "corpus": corpus, "hooks": ["model.layers.1"]}
        return make_contexts(store, ModelConfig.model_validate(settings))

    first, other, again = contexts("text"), contexts("body"), contexts("text")
    assert other.content != first.content
    assert again.cache_hit
    assert again.content == first.content
