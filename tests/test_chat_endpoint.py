"""A model behind an endpoint, asked over real HTTP on this machine; the servers misbehave on purpose."""

import json
import logging
import os
import subprocess
import sys
import traceback
from math import log

import pytest
from pydantic import ValidationError

from sae_core.chat import ChatModel, ChatUnavailable, Message, Missing, ReplyStore, build_chat, check_chat
from sae_core.chat.budget import estimate
from sae_core.chat.openai import OpenAIChatModel
from sae_core.chat.requests import LONG_PROMPT
from sae_core.config import OpenAIChat
from tests.misbehaving_server import Sent, Server, nobody, one_after_another, refuse, say

KEY = "sk-very-secret-4711"


def _settings(url, **fields):
    defaults = {"max_retries": 0, "max_failed": 1.0, "timeout_s": 5.0, "api_key_env": "TEST_ENDPOINT_KEY"}
    return OpenAIChat(kind="openai", model="some-model", base_url=url, **defaults | fields)


@pytest.fixture
def chat(tmp_path):
    def make(url, **fields):
        return OpenAIChatModel(_settings(url, **fields), ReplyStore(tmp_path / "replies"))

    return make


def _ask(*texts):
    return [(Message("system", "be brief"), Message("user", text)) for text in texts]


def _texts(answers):
    return [answer.text for answer in answers]


def test_replies_come_in_the_order_of_the_prompts_whatever_the_order_they_were_written_in(chat):
    def answer(asked):
        slow = 0.1 if asked.prompt == "a" else 0.0
        return Sent(**{**vars(say(asked.prompt.upper())), "after_s": slow})

    with Server(answer) as server:
        model = chat(server.url, max_concurrency=4)
        assert isinstance(model, ChatModel)
        assert _texts(model.complete(_ask("a", "b", "c", "d"))) == ["A", "B", "C", "D"]


def test_the_request_has_the_settings_and_leaves_out_what_is_none(chat):
    with one_after_another(say("yes")) as server:
        chat(server.url, max_new_tokens=9).complete(_ask("a"), stop="\n")
        chat(server.url, seed=None).complete([(Message("text", "go on:"),)])
    first, second = (asked.body for asked in server.asked)
    assert first == {
        "model": "some-model",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "a"}],
        "max_tokens": 9,
        "temperature": 0.0,
        "seed": 0,
        "stop": ["\n"],
    }
    assert second["messages"] == [{"role": "user", "content": "go on:"}]
    assert "seed" not in second
    assert server.asked[0].path == "/v1/chat/completions"


def test_no_more_requests_are_under_way_than_allowed(chat):
    with Server(lambda asked: Sent(**{**vars(say("x")), "after_s": 0.03})) as server:
        chat(server.url, max_concurrency=3).complete(_ask(*map(str, range(12))))
        assert server.most_at_once == 3


def test_an_endpoint_that_is_down_gives_missing_replies_or_is_refused_by_name(chat):
    url = nobody()
    assert chat(url).complete(_ask("a")) == [Missing("the endpoint could not be reached")]
    with pytest.raises(ChatUnavailable, match="1 of 1 requests to http://127.0.0.1:.* failed: 1 x the endpoint could"):
        chat(url, max_failed=0.5).complete(_ask("a"))


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (refuse(429), "HTTP 429"),
        (refuse(500), "HTTP 500"),
        (refuse(400, "bad things"), "HTTP 400"),
        (Sent(200, b"<html>out of order</html>", {"content-type": "text/html"}), "the reply could not be read"),
        (Sent(200, b'{"choices": [', {"content-type": "application/json"}), "the reply could not be read"),
        (Sent(200, b"\xff\xfe\x00", {"content-type": "application/json"}), "the reply could not be read"),
        (Sent(200, b"", {"content-type": "application/json"}), "the reply could not be read"),
        (Sent(200, b"null", {"content-type": "application/json"}), "the reply could not be read"),
        (Sent(200, b'{"choices": []}', {"content-type": "application/json"}), "the reply could not be read"),
        (Sent(200, b'{"choices": [{"message": {"content": 7}}]}'), "the reply could not be read"),
        (Sent(hangs_up=True), "the endpoint could not be reached"),
        (say(None), "the reply is empty"),
        (say(" \n"), "the reply is empty"),
        (refuse(400, "the prompt", code="context_length_exceeded"), LONG_PROMPT),
        (refuse(400, "This model's maximum context length is 512 tokens, 'max_tokens' is too large"), LONG_PROMPT),
        (refuse(400, "the request exceeds the available context size", type="exceed_context_size_error"), LONG_PROMPT),
        (refuse(413), LONG_PROMPT),
    ],
)
def test_what_is_no_reply_is_missing_with_a_reason_and_is_not_kept(chat, tmp_path, sent, reason):
    with one_after_another(sent) as server:
        model = chat(server.url)
        assert model.complete(_ask("a")) == [Missing(reason)]
        assert model.usage.n_failed == model.usage.n_requests == 1
    assert not list(tmp_path.rglob("*.json"))


def test_a_server_that_does_not_answer_is_left_after_the_time_out(chat):
    with one_after_another(Sent(**{**vars(say("late")), "after_s": 0.6})) as server:
        assert chat(server.url, timeout_s=0.1).complete(_ask("a")) == [Missing("timed out")]


@pytest.mark.parametrize("trouble", [refuse(429), refuse(503), Sent(hangs_up=True)])
def test_what_passes_is_tried_again(chat, trouble):
    with one_after_another(trouble, say("at last")) as server:
        assert _texts(chat(server.url, max_retries=1).complete(_ask("a"))) == ["at last"]
        assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "expected a key that may use model 'some-model' in the environment variable TEST_ENDPOINT_KEY"),
        (403, "answered HTTP 403"),
        (404, "expected model 'some-model' there; see that the name is right, and that base_url"),
    ],
)
def test_what_no_further_try_can_change_ends_the_work_at_once(chat, status, message):
    with one_after_another(refuse(status)) as server:
        with pytest.raises(ChatUnavailable, match=message):
            chat(server.url, max_retries=4, max_concurrency=2).complete(_ask(*map(str, range(50))))
        assert len(server.asked) <= 2


def test_too_many_failures_are_an_error_that_names_them_and_the_next_run_asks_for_the_rest_only(chat):
    broken = {"b", "c", "d"}
    with Server(lambda asked: refuse(500) if asked.prompt in broken else say(asked.prompt.upper())) as server:
        prompts = _ask(*"abcdefgh")
        with pytest.raises(ChatUnavailable, match=r"3 of 8 requests .* 3 x HTTP 500; .* 5 replies came and are kept"):
            chat(server.url, max_failed=0.3, max_concurrency=1).complete(prompts[4:] + prompts[:4])
        broken.clear()
        server.asked.clear()
        model = chat(server.url, max_failed=0.3)
        assert _texts(model.complete(prompts)) == list("ABCDEFGH")
        assert {asked.prompt for asked in server.asked} == {"b", "c", "d"}
        assert (model.usage.n_requests, model.usage.n_from_store, model.usage.n_failed) == (8, 5, 0)


def test_a_few_failures_are_missing_values(chat):
    with Server(lambda asked: refuse(500) if asked.prompt == "3" else say("x")) as server:
        found = chat(server.url, max_failed=0.1).complete(_ask(*map(str, range(10))))
        assert [i for i, reply in enumerate(found) if reply == Missing("HTTP 500")] == [3]


def test_after_many_failures_in_a_row_nobody_else_is_asked(chat):
    with one_after_another(refuse(500)) as server:
        with pytest.raises(ChatUnavailable, match="20 x HTTP 500"):
            chat(server.url, max_failed=0.99, max_concurrency=1).complete(_ask(*map(str, range(300))))
        assert len(server.asked) == 20


def test_prompts_are_paid_for_once_and_other_settings_ask_again(chat):
    with one_after_another(say("x")) as server:
        chat(server.url).complete(_ask("a", "a", "b"))
        assert len(server.asked) == 2
        chat(server.url, max_concurrency=1, timeout_s=9, max_retries=1, budget_tokens=9).complete(_ask("b", "a"))
        assert len(server.asked) == 2
        chat(server.url, temperature=0.5).complete(_ask("a"))
        chat(server.url).complete(_ask("a"), stop="\n")
        assert len(server.asked) == 4


def test_a_budget_of_tokens_stops_cleanly_and_what_is_left_is_missing(chat):
    # A prompt is about 12 tokens: with those under way counted, the fifth request is the last below 100.
    with Server(lambda _: Sent(**{**vars(say("x", usage=(12, 10))), "after_s": 0.03})) as server:
        model = chat(server.url, budget_tokens=100, max_new_tokens=10, max_concurrency=8)
        found = model.complete(_ask(*map(str, range(9))))
        assert len(server.asked) == 5
        assert found.count(Missing("the budget was spent")) == 4
        assert (model.usage.n_prompt_tokens, model.usage.n_reply_tokens) == (60, 50)
        assert model.complete(_ask("another")) == [Missing("the budget was spent")]


def test_a_budget_in_money_counts_both_prices(chat):
    prices = {"usd_per_million_prompt_tokens": 1e6, "usd_per_million_reply_tokens": 2e6}
    with one_after_another(say("x", usage=(3, 1))) as server:
        model = chat(server.url, budget_usd=9, max_new_tokens=1, max_concurrency=1, **prices)
        found = model.complete(_ask(*"abcd"))
    assert [isinstance(each, Missing) for each in found] == [False, False, True, True]
    assert model.usage.usd == pytest.approx(10)


def test_thinking_without_a_word_is_paid_for_too(chat):
    with one_after_another(say(None, usage=(5, 50))) as server:
        model = chat(server.url, budget_tokens=50)
        model.complete(_ask("a"))
        assert model.complete(_ask("b")) == [Missing("the budget was spent")]
        assert len(server.asked) == 1


def test_where_an_endpoint_does_not_count_tokens_they_are_estimated(chat):
    with one_after_another(say("seven letters!", usage=None)) as server:
        model = chat(server.url)
        model.complete(_ask("a" * 35))
    assert model.usage.n_reply_tokens == 4
    assert model.usage.n_prompt_tokens == estimate(_ask("a" * 35), model._settings).n_prompt_tokens


def test_the_estimate_comes_before_the_first_request_and_leaves_out_what_is_there(chat):
    told = []
    prices = {"usd_per_million_prompt_tokens": 1000.0, "usd_per_million_reply_tokens": 1000.0}
    with one_after_another(say("x")) as server:
        model = chat(server.url, max_new_tokens=10, **prices)
        model.complete(_ask("a"))
        model.complete(_ask("a", "b" * 27), progress=lambda *at: told.append((len(server.asked), *at)))
    asked, done, total, text = told[0]
    assert (asked, done, total) == (1, 0, 1)
    assert text == (
        "some-model: 1 requests, about 19 tokens of prompts and at most 10 of replies, at most $0.03; "
        "1 replies are there already"
    )
    assert told[-1][1:3] == (1, 1)


def test_a_reply_that_was_cut_off_says_so(chat):
    with one_after_another(say("and then", finish_reason="length")) as server:
        assert not chat(server.url).complete(_ask("a"))[0].finished


def _likely(**probabilities):
    top = [{"token": token, "logprob": log(p)} for token, p in probabilities.items()]
    return {"logprobs": {"content": [{"token": "x", "logprob": 0.0, "top_logprobs": top}]}}


def test_a_choice_is_weighed_by_the_probabilities_of_the_first_token(chat):
    with one_after_another(say("Yes", **_likely(Yes=0.5, yes=0.1, No=0.2, maybe=0.2))) as server:
        model = chat(server.url)
        for _ in range(2):
            assert model.choose(_ask("a"), ["yes", "no"]) == [pytest.approx([0.75, 0.25])]
        assert len(server.asked) == 1
        assert server.asked[0].body["logprobs"] is True


def test_a_choice_without_probabilities_is_what_was_written(chat):
    def answer(asked):
        if "logprobs" in asked.body:
            return refuse(400, "logprobs are not supported by this model", param="logprobs")
        return say({"a": "No.", "b": "**yes**, it does", "c": "perhaps"}[asked.prompt])

    with Server(answer) as server:
        found = chat(server.url, max_concurrency=1).choose(_ask(*"abc"), ["yes", "no"])
        assert found == [[0.0, 1.0], [1.0, 0.0], Missing("the reply is none of the options")]
        assert len(server.asked) == 4


def test_an_endpoint_that_names_the_limit_otherwise_is_understood(chat):
    def answer(asked):
        if "max_tokens" in asked.body:
            return refuse(400, "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.")
        return say("x")

    with Server(answer) as server:
        assert _texts(chat(server.url, max_concurrency=1, max_new_tokens=5).complete(_ask("a", "b"))) == ["x", "x"]
        assert [asked.body.get("max_completion_tokens") for asked in server.asked] == [None, 5, 5]


def test_the_key_goes_to_the_endpoint_and_nowhere_else(chat, tmp_path, monkeypatch, caplog, capfd):
    monkeypatch.setenv("TEST_ENDPOINT_KEY", KEY)
    monkeypatch.setenv("OPENAI_LOG", "debug")
    echo = f"Incorrect API key provided: {KEY}"
    answers = {
        "a": say("fine"),
        "b": say(f"your key is {KEY}"),
        "c": refuse(500, echo),
        "d": refuse(400, echo),
        "e": Sent(200, echo.encode()),
        "f": refuse(401, echo),
    }
    told, shown = [], []
    with caplog.at_level(logging.DEBUG), Server(lambda asked: answers[asked.prompt]) as server:
        model = chat(server.url, max_retries=1)
        found = model.complete(_ask(*"abcde"), progress=lambda *at: told.append(at))
        assert model.choose(_ask("b"), ["yes", "no"]) == [Missing("the reply repeats the key")]
        try:
            model.complete(_ask("f"))
        except ChatUnavailable as error:
            shown = [*traceback.format_exception(error), repr(error.__context__), repr(error.__cause__)]
    assert shown
    assert {asked.authorization for asked in server.asked} == {f"Bearer {KEY}"}
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 1
    everything = [caplog.text, *capfd.readouterr(), *written, *shown, str(found), str(told), str(vars(model))]
    assert found[1] == Missing("the reply repeats the key")
    assert not any(KEY in text or KEY[3:] in text for text in everything)


def test_the_key_does_not_follow_a_redirect_to_another_server(chat, monkeypatch):
    monkeypatch.setenv("TEST_ENDPOINT_KEY", KEY)
    with one_after_another(say("x")) as other:
        there = Sent(307, b"", {"location": f"{other.url}/chat/completions"})
        with one_after_another(there) as server:
            chat(server.url).complete(_ask("a"))
    assert [asked.authorization for asked in server.asked] == [f"Bearer {KEY}"]
    assert all(asked.authorization is None for asked in other.asked)


def test_a_key_of_another_endpoint_is_not_taken_for_one_on_this_machine(chat, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with one_after_another(say("x")) as server:
        chat(server.url).complete(_ask("a"))
    assert KEY not in str(server.asked[0].authorization)


def test_an_endpoint_elsewhere_without_a_key_is_refused_before_any_request(chat, monkeypatch, tmp_path):
    monkeypatch.delenv("TEST_ENDPOINT_KEY", raising=False)
    settings = _settings("https://example.org/v1")
    for build in (lambda: check_chat(settings), lambda: build_chat(settings, tmp_path, pytest.fail)):
        with pytest.raises(
            ValueError, match="no key for https://example.org/v1: expected one in the environment"
        ) as got:
            build()
        assert "TEST_ENDPOINT_KEY" in str(got.value)


@pytest.mark.parametrize("url", ["https://example.org/v1?token=abc", "https://me:abc@example.org/v1", "ftp://x/v1"])
def test_an_address_that_could_hold_a_key_is_refused(url):
    with pytest.raises(ValidationError, match="base_url"):
        _settings(url)


@pytest.mark.parametrize("key", ["sk-two\nlines-secret", "sk secret", "sk-sécret"])
def test_a_key_that_would_end_up_in_an_error_is_refused_without_showing_it(chat, monkeypatch, key):
    monkeypatch.setenv("TEST_ENDPOINT_KEY", key)
    with pytest.raises(ValueError, match="TEST_ENDPOINT_KEY has characters that no key has") as got:
        chat("http://127.0.0.1:1/v1")
    assert not any(part in str(got.value) for part in key.split())


def test_a_proxy_is_not_asked_for_what_is_on_this_machine(chat, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", nobody().removesuffix("/v1"))
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with one_after_another(say("x")) as server:
        assert _texts(chat(server.url).complete(_ask("a"))) == ["x"]


def test_without_the_package_the_message_has_the_command(monkeypatch):
    monkeypatch.setattr("sae_core.chat.building.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'sae-concord\[openai\]'"):
        check_chat(_settings("http://127.0.0.1:1/v1"))


def test_a_killed_run_has_its_replies_the_next_time(tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from sae_core.chat import Message, ReplyStore\n"
        "from sae_core.chat.openai import OpenAIChatModel\n"
        "from sae_core.config import OpenAIChat\n"
        "s = OpenAIChat(kind='openai', model='m', base_url=sys.argv[1], max_concurrency=1, timeout_s=60)\n"
        "OpenAIChatModel(s, ReplyStore(Path(sys.argv[2]))).complete([(Message('user', t),) for t in 'abcd'])\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    process = None

    def answer(asked):
        if asked.prompt == "c" and process is not None:
            process.kill()
        return say(asked.prompt)

    with Server(answer) as server:
        command = [sys.executable, "-c", code, server.url, str(tmp_path)]
        process = subprocess.Popen(command, env=environment)
        process.wait(60)
        assert [asked.prompt for asked in server.asked] == ["a", "b", "c"]
        process = None
        server.asked.clear()
        subprocess.run(command, env=environment, check=True, timeout=60)
        assert [asked.prompt for asked in server.asked] == ["c", "d"]
    stored = [json.loads(path.read_text()) for path in tmp_path.rglob("*.json")]
    assert sorted(each["text"] for each in stored) == list("abcd")
