"""The table of explanations of one run, and the chain of its stages on a tiny language model."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from sae_core.chat.messages import Missing
from sae_core.config import ExplanationsConfig, LexicalExplainer
from sae_core.explaining import lexical
from sae_core.explaining.artifact import draw_features, explain_run
from sae_core.explaining.explanations import Explanation
from sae_core.explaining.rules import Rule
from sae_core.explaining.table import EXPLANATION_SCHEMA
from sae_core.store import digest_file
from tests.tiny_contexts import PLANTED, made_up_contexts


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return made_up_contexts(tmp_path_factory.mktemp("world"))


class Names:
    """Says the number of the feature and the half, but nothing of one of them."""

    name = "names"

    def __init__(self, silent_about=-1):
        self.silent_about, self.asked = silent_about, []

    def explain(self, slots, progress):
        self.asked += slots
        return [
            Missing("nothing to say") if place == self.silent_about else Explanation(f"{place} {half}")
            for place, half in slots
        ]


def run(folder, world, explainer, features=None, **fields):
    folder.mkdir(parents=True, exist_ok=True)
    config = ExplanationsConfig(**fields)
    summary = explain_run(folder, world.contexts, explainer, "lexical", config, features)
    return summary, pq.read_table(folder / "explanations.parquet")


def test_every_feature_that_fires_has_two_rows_and_each_says_what_its_half_said(tmp_path, world):
    summary, table = run(tmp_path, world, Names(), min_activations=1)
    assert table.schema.equals(EXPLANATION_SCHEMA)
    places = {feature: place for place, feature in enumerate(world.contexts.features.tolist())}
    assert [(row["feature"], row["half"]) for row in table.to_pylist()] == [(f, h) for f in places for h in (0, 1)]
    assert PLANTED.index("dead") not in table["feature"].to_pylist()
    for row in table.to_pylist():
        assert row["explanation"] in (None, f"{places[row['feature']]} {row['half']}")
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


def test_what_is_missing_is_counted_by_reason_and_adds_up(tmp_path, world):
    explainer = Names(silent_about=world.place("dog"))
    summary, table = run(tmp_path, world, explainer)
    rare = [row for row in table.to_pylist() if row["feature"] == PLANTED.index("twice")]
    assert [row["missing_reason"] for row in rare] == ["fired too rarely"] * 2
    assert summary["missing"]["nothing to say"] == 2
    assert summary["missing"]["fired too rarely"] >= 2
    assert summary["n_explanations"] + summary["n_missing"] == 2 * summary["n_features"] == table.num_rows
    assert not any((row["explanation"] is None) == (row["missing_reason"] is None) for row in table.to_pylist())
    assert world.place("twice") not in {place for place, _ in explainer.asked}  # no request for what fires too rarely


def test_frequency_is_the_share_of_the_tokens_looked_at_and_counts_are_of_the_half(tmp_path, world):
    _, table = run(tmp_path, world, Names())
    for row in table.to_pylist():
        codes = world.codes[world.contexts.looked_at, row["feature"]]
        half = world.text.half[world.contexts.looked_at]
        assert row["frequency"] == pytest.approx((codes > 0).mean())
        assert row["n_activations"] == int((codes[half == row["half"]] > 0).sum())


def test_only_the_features_asked_for_are_explained_and_a_dead_one_has_no_row(tmp_path, world):
    asked = [PLANTED.index("dog"), PLANTED.index("dead"), PLANTED.index("number")]
    summary, table = run(tmp_path, world, Names(), features=asked)
    assert set(table["feature"].to_pylist()) == {asked[0], asked[2]}
    assert summary["n_features"] == 2


def test_a_drawn_sample_depends_on_its_seed_alone():
    alive = np.arange(0, 200, 2)
    first, again, other = (draw_features(alive, ExplanationsConfig(n_features=20, seed=s)) for s in (0, 0, 1))
    assert first.tolist() == again.tolist() == sorted(set(first.tolist()) & set(alive.tolist()))
    assert first.tolist() != other.tolist()
    assert draw_features(alive, ExplanationsConfig(n_features=500)).tolist() == alive.tolist()


def test_a_lexical_table_holds_rules_that_can_be_run_and_the_same_run_gives_the_same_bytes(tmp_path, world):
    digests = set()
    for attempt in ("1", "2"):
        writer = lexical.LexicalExplainer(LexicalExplainer(), world.contexts, world.text)
        _, table = run(tmp_path / attempt, world, writer)
        digests.add(digest_file(tmp_path / attempt / "explanations.parquet"))
    assert len(digests) == 1
    dog = next(row for row in table.to_pylist() if row["feature"] == PLANTED.index("dog"))
    assert "dog" in dog["explanation"]
    assert any(clause.value == "dog" for clause in Rule.from_json(dog["rule"]).clauses)
    assert dog["words"][0] == "dog"
    assert any("<<" in text and "dog" in text for text in dog["examples"])
    assert dog["prompt_digest"] is dog["reply"] is None
