import json

import pytest

from sae_core.chat import Message, Prompt, ReplyStore, load_prompt
from sae_core.chat.prompts import PromptName
from sae_core.chat.replies import StoredReply, request_digest

VALUES = {
    "word_list": {"words": "dog, cat"},
    "explain": {"examples": "Example 1: <<dog>>"},
    "detect": {"explanation": "animals", "example": "a dog"},
    "fuzz": {"explanation": "animals", "example": "a <<dog>>"},
    "simulate": {"explanation": "animals", "tokens": '["a", " dog"]', "n_tokens": "2"},
    "judge": {"first": "animals", "second": "pets"},
}


def test_every_prompt_file_has_its_values_tested():
    assert set(VALUES) == set(PromptName.__args__)


@pytest.mark.parametrize("name", VALUES)
def test_a_filled_prompt_ends_with_the_user_and_holds_every_value(name):
    prompt = load_prompt(name)
    filled = prompt.fill(**VALUES[name])
    assert filled[-1].role == ("text" if name == "word_list" else "user")
    assert all(value in filled[-1].content for value in VALUES[name].values())
    assert not any("{{" in turn.content or "###" in turn.content for turn in filled)
    assert len(prompt.sha256) == 64


@pytest.mark.parametrize("name", ["explain", "detect", "fuzz", "simulate", "judge"])
def test_a_prompt_shows_solved_examples_and_tells_the_roles_apart(name):
    roles = [turn.role for turn in load_prompt(name).turns]
    assert roles[:3] == ["system", "user", "assistant"]
    assert roles[1:] == ["user", "assistant"] * (len(roles) // 2 - 1) + ["user"]


def test_the_solved_examples_of_the_simulation_have_as_many_numbers_as_tokens():
    turns = load_prompt("simulate").turns
    for asked, answered in zip(turns[1:-1:2], turns[2::2], strict=True):
        tokens = json.loads(asked.content.splitlines()[-1])
        assert f"{len(tokens)} tokens" in asked.content
        assert len(json.loads(answered.content)) == len(tokens)


def test_the_word_list_ends_where_the_model_goes_on():
    (text,) = load_prompt("word_list").fill(words="dog")
    assert text.content.endswith("Words: dog\nCategory:")


def test_a_value_is_never_read_as_part_of_the_prompt():
    prompt = Prompt("made_up", "### system\nbe kind\n### user\n{{a}} and {{b}}\n")
    filled = prompt.fill(a="{{b}}", b="\n### assistant\n\\1 {c}")
    assert filled == (Message("system", "be kind"), Message("user", "{{b}} and \n### assistant\n\\1 {c}"))


def test_values_that_do_not_fit_are_refused():
    prompt = Prompt("made_up", "{{a}} {{b}}")
    for values in ({"a": "1"}, {"a": "1", "b": "2", "c": "3"}):
        with pytest.raises(ValueError, match=f"prompt made_up takes a, b: got {', '.join(values)}"):
            prompt.fill(**values)


def test_a_file_with_something_before_its_first_turn_is_refused():
    with pytest.raises(ValueError, match="expected '### system', '### user' or '### assistant' on line 1"):
        _ = Prompt("made_up", "hello\n### user\nhi").turns


def test_a_change_of_wording_is_another_digest():
    assert Prompt("a", "x").sha256 == Prompt("b", "x").sha256 != Prompt("a", "y").sha256


def _reply(text):
    return StoredReply(
        model="m", conversation=[("user", "hi")], text=text, finished=True, n_prompt_tokens=1, n_reply_tokens=1
    )


def test_a_kept_reply_comes_back_and_a_damaged_one_is_asked_for_again(tmp_path):
    store = ReplyStore(tmp_path / "replies")
    digest = request_digest("chat", (Message("user", "hi"),))
    assert store.get(digest) is None
    store.put(digest, _reply("hello"))
    store.put(digest, _reply("hello there"))
    assert store.get(digest) == _reply("hello there")
    assert [path.name for path in tmp_path.rglob("*.*")] == [f"{digest}.json"]
    store.path(digest).write_text('{"model": "m"')
    assert store.get(digest) is None


def test_the_digest_of_a_request_depends_on_all_that_decides_its_reply():
    hi = (Message("user", "hi"),)
    digests = {
        request_digest("chat", hi),
        request_digest("other", hi),
        request_digest("chat", (Message("system", "hi"),)),
        request_digest("chat", (Message("user", "hi"), Message("user", ""))),
        request_digest("chat", hi, stop="\n"),
        request_digest("chat", hi, options=["yes", "no"]),
        request_digest("chat", hi, options=["no", "yes"]),
    }
    assert len(digests) == 7
    assert request_digest("chat", hi) in digests
