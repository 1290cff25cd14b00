"""Watching a run: what TensorBoard and Weights & Biases get, and that it changes no bit."""

import math
import sys
from types import SimpleNamespace

import pytest

from sae_core.training import observers, train_run
from sae_core.training.observers import require_watchers, watching
from tests.tiny_training import BATCH_TOPK, SEEDS, config, contents, planted_shards


@pytest.fixture
def shards(tmp_path):
    return planted_shards(tmp_path / "shards")


def watched(tmp_path, shards, name, watch):
    (folder := tmp_path / name).mkdir()
    summary = train_run(folder, shards, BATCH_TOPK, config(watch=watch), SEEDS, {}, logs=tmp_path / "logs")
    return folder, summary


def events(folder):
    """Values by name and step, from the files that TensorBoard reads."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = accumulator.EventAccumulator(str(folder)).Reload()
    return {tag: {event.step: event.value for event in read.Scalars(tag)} for tag in read.Tags()["scalars"]}


def test_tensorboard_gets_every_number_and_no_bit_changes(tmp_path, shards):
    pytest.importorskip("tensorboard")
    folder, summary = watched(tmp_path, shards, "watched", ["tensorboard"])
    (run,) = (tmp_path / "logs" / "tensorboard" / BATCH_TOPK.key).iterdir()
    assert run.name == "seeds-0-0-0-watched"
    found = events(run)
    assert sorted(found["training/loss"]) == [10, 20, 30]
    for name in ("loss", "fve", "threshold", "lr"):
        assert math.isclose(found[f"training/{name}"][30], summary[name], rel_tol=1e-6)
    assert "training/tokens_per_second" in found
    unwatched, _ = watched(tmp_path, shards, "unwatched", [])
    assert contents(folder) == contents(unwatched)
    assert list((tmp_path / "logs").iterdir()) == [tmp_path / "logs" / "tensorboard"]


class FakeWandb(SimpleNamespace):
    """What the observer uses of wandb."""

    Settings = SimpleNamespace

    def __init__(self):
        super().__init__(started=None, logged={}, ended=None)

    def init(self, **arguments):
        self.started = arguments
        return SimpleNamespace(
            log=lambda numbers, step: self.logged.update({step: numbers}),
            finish=lambda exit_code: setattr(self, "ended", exit_code),
        )


@pytest.fixture
def fake(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(observers, "find_spec", lambda name: object())
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return fake


def test_wandb_gets_the_curves_the_settings_and_the_outcome(tmp_path, shards, fake):
    watched(tmp_path, shards, "run", ["wandb"])
    assert (fake.started["project"], fake.started["dir"]) == ("sae-concord", str(tmp_path / "logs"))
    assert fake.started["config"]["variant"]["k"] == 4
    assert sorted(fake.logged) == [10, 20, 30]
    assert {"training/loss", "training/threshold"} <= set(fake.logged[10])
    assert fake.ended == 0


def test_wandb_is_told_of_a_run_that_failed_and_listens_to_its_own_environment(tmp_path, fake, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    with pytest.raises(KeyboardInterrupt), watching(["wandb"], tmp_path, "run", {}):
        raise KeyboardInterrupt
    assert (fake.started["project"], fake.ended) == ("mine", 1)


def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(observers, "find_spec", lambda name: None)
    message = r"names wandb, but the package wandb is not installed; install it with: pip install sae-concord\[wandb\]"
    with pytest.raises(ModuleNotFoundError, match=message):
        require_watchers(["wandb"])
    require_watchers([])


def test_without_a_name_nobody_watches(tmp_path):
    with watching([], tmp_path, "run", {}) as observer:
        assert observer is None
    assert list(tmp_path.iterdir()) == []
