"""The metadata of a materialization leads to everything behind it, and stays small."""

import json

import dagster as dg
import pytest

from assets.recording import record, recorded_artifacts
from sae_core.store import MANIFEST, ArtifactStore


def make(store, kind, inputs, text="x", **upstream):
    def build(folder):
        (folder / "data.txt").write_text(text)
        return {}

    return store.get_or_build(kind, build, code_version="7", inputs=inputs, upstream=upstream)


@pytest.fixture
def chain(store):
    """contexts -> activations -> sae and its evaluation."""
    contexts = make(store, "contexts", {"model": "a" * 64, "corpus": "b" * 64})
    activations = make(store, "activations", {"hook": "h"}, contexts=contexts)
    sae = make(store, "sae", {"training": {"lr": 0.1}, "seeds": {"initialisation": 3}}, activations=activations)
    evaluation = make(store, "evaluation", {"n": 1}, sae=sae, activations=activations, contexts=contexts)
    return contexts, activations, sae, evaluation


def size_of(metadata):
    return len(json.dumps({name: str(getattr(value, "value", value)) for name, value in metadata.items()}))


def test_settings_code_environment_and_place_are_there(chain):
    sae = chain[2]
    found = record({"sae": sae}, {"l0": 4.5}).metadata
    assert found["l0"] == 4.5
    assert found["settings"].value == sae.manifest.inputs
    assert found["environment"].value["python"] == sae.manifest.environment["python"]
    assert found["fingerprint"] == sae.manifest.fingerprint
    assert found["code_version"] == "7"
    assert found["git_commit"] == sae.manifest.environment["git_commit"]
    assert found["path"].value == str(sae.path)
    assert found["cache_hit"] is False
    assert isinstance(found["created"], dg.TimestampMetadataValue)


def test_numbers_stay_numbers_which_the_ui_plots(chain):
    found = record({"sae": chain[2]}, {"l0": 4.5, "n": 3}).metadata
    assert [type(found[name]) for name in ("l0", "n", "seconds_to_make")] == [float, int, float]


def test_upstream_is_a_table_without_what_was_made_together(chain):
    _, activations, sae, evaluation = chain
    header, _, *rows = record({"sae": sae, "evaluation": evaluation}, {}).metadata["upstream"].value.splitlines()
    assert header == "| name | kind | fingerprint | content | made (UTC) | in store |"
    assert [row.split(" | ")[1] for row in rows] == ["activations", "contexts"]
    assert f"`{activations.manifest.fingerprint[:12]}` | `{activations.content[:12]}`" in rows[0]
    assert rows[1].endswith("| yes |")


def test_what_is_gone_or_replaced_upstream_is_said(store, chain):
    contexts, activations, _, evaluation = chain
    path = contexts.path / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"content": "c" * 64}))
    store.remove(activations)
    rows = record({"evaluation": evaluation}, {}).metadata["upstream"].value.splitlines()[2:]
    assert [row.split(" | ")[-1] for row in rows] == ["yes |", "**no** |", "**other content** |"]


def test_the_lineage_leads_to_the_digests_of_model_and_text(chain):
    text = record({"sae": chain[2]}, {}).metadata["lineage"].value
    assert text.startswith("```\nsae/")
    assert "model aaaaaaaaaaaa  corpus bbbbbbbbbbbb" in text
    assert f"`concord lineage sae/{chain[2].manifest.fingerprint[:12]} --settings`" in text


def test_what_comes_from_outside_has_nothing_upstream(chain):
    assert record({"contexts": chain[0]}, {}).metadata["upstream"].value.startswith("Nothing: ")


def test_a_report_of_many_runs_and_long_settings_stays_below_30_kb(store, chain):
    saes = {f"v/sae seed {n}": make(store, "sae", {"seed": n}, f"{n}", activations=chain[1]) for n in range(300)}
    long = {"study": {"name": "big"}, "seeds": list(range(5000)), "credit": "c"}
    report = make(store, "report", long, **saes)
    found = record({"report": report}, {}).metadata
    assert size_of(found) < 30_000
    assert "240 more; `concord lineage` shows all." in found["upstream"].value
    assert "more lines: `concord lineage report/" in found["lineage"].value
    settings = found["settings"].value
    assert (settings["study"], settings["credit"]) == ({"name": "big"}, "c")
    assert settings["seeds"].endswith("see inputs.seeds in _manifest.json")


def test_artifacts_are_found_again_from_what_was_recorded(store, chain):
    made = dg.AssetMaterialization("sae", metadata=record({"sae": chain[2], "evaluation": chain[3]}, {}).metadata)
    assert recorded_artifacts(made) == {
        "sae": (chain[2].url, chain[2].content),
        "evaluation": (chain[3].url, chain[3].content),
    }


def test_artifacts_of_a_remote_store_are_traced_without_copying_them(tmp_path):
    store = ArtifactStore("memory://recording-test", scratch=tmp_path)
    contexts = make(store, "contexts", {"model": "a" * 64})
    sae = make(store, "sae", {}, contexts=contexts)
    assert "contexts/" in record({"sae": sae}, {}).metadata["lineage"].value
    assert not (tmp_path / "copies" / "contexts").exists()
