"""A project like this one in a folder of its own: a tiny model, a little text, YAML files, a store, a Dagster home."""

import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from tests.live.servers import LiveDagster
from tests.tiny import make_corpus, make_model

ROOT = Path(__file__).resolve().parent.parent.parent

MODEL: dict[str, Any] = {
    "name": "tiny-llama",
    "hooks": ["model.layers.1"],
    "dtype": "float32",
    "activations": {"shard_tokens": 4096},
}

STUDY: dict[str, Any] = {
    "name": "tiny",
    "model": "tiny-llama",
    "hook": "model.layers.1",
    "variants": [{"architecture": "topk", "d_sae": 64, "k": 4}, {"architecture": "topk", "d_sae": 64, "k": 8}],
    "seeds": [0, 1, 2],
    "training": {
        "n_steps": 400,
        "batch_size": 256,
        "lr": 3e-3,
        "warmup_steps": 5,
        "sparsity_warmup_steps": 10,
        "log_every": 20,
        "checkpoints": [0, 0.1, 0.3],
    },
    "evaluation": {"n_loss_contexts": 8},
    "contexts": {"n_pool": 64},
    "explanations": {"min_activations": 3},
    "scoring": {"n_embedded": 2},
    "similarity": {"n_permutations": 19},
}


class TinyProject:
    """A project in a temporary folder; its YAML files are those a user would write."""

    def __init__(self, root: Path, settings: Path = ROOT / "pipelines" / "dagster.yaml"):
        """Make it, with one model and no study.

        Args:
            root: an empty folder.
            settings: the dagster.yaml that is copied into its home.
        """
        self.root, self.home, self.store = root, root / "home", root / "store"
        self.defs = root / "pipelines" / "defs"
        # The code itself, which reads the YAML beside it: all that the project has is there, and none of its studies.
        ignored = shutil.ignore_patterns("__pycache__", "models", "studies", "synthetic")
        shutil.copytree(ROOT / "pipelines", root / "pipelines", ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", root)
        for folder in (self.home, self.store):
            folder.mkdir()
        shutil.copy(settings, self.home / "dagster.yaml")
        self.corpus = make_corpus(root / "corpus.jsonl", n_documents=600)
        self.add_model("tiny-llama")

    def add_model(self, name: str, seed: int = 0, **changes: Any) -> None:
        """A model file and its weights."""
        source = {"kind": "local", "path": str(self.new_weights(name, seed))}
        text = {"source": {"kind": "local", "path": str(self.corpus)}, "context_length": 32}
        self._write("models", MODEL | {"name": name, "source": source, "corpus": text} | changes, "LanguageModel")

    def new_weights(self, name: str = "tiny-llama", seed: int = 0) -> Path:
        """Weights in the model's folder, in place of those there; equal for equal seeds."""
        return make_model(self.root / "weights" / name, seed)

    def add_study(self, name: str = "tiny", **changes: Any) -> None:
        """A study file; the same again with changes rewrites it. The definitions must then be loaded again."""
        self._write("studies", STUDY | {"name": name} | changes, "Study")

    def remove_model(self, name: str) -> None:
        """Remove a model file."""
        shutil.rmtree(self._folder("models", name))

    def code_version(self, stage: str, version: str) -> None:
        """Another version of the code that makes and scores explanations, as the definitions and the runs have it."""
        file = self.root / "pipelines" / "definitions.py"
        line = f"EXPLANATION_CODE_VERSION[{stage!r}] = {version!r}\n"
        text = file.read_text().replace("\n\n\n@dg.definitions", f"\n{line}\n\n@dg.definitions")
        head, rest = text.split("import dagster as dg\n", 1)
        imported = "from sae_core.explanation_chain import EXPLANATION_CODE_VERSION\n"
        file.write_text(f"{head}import dagster as dg\n{imported}{rest}")

    def break_study(self, name: str, text: str = "variants: [{architecture: topk") -> None:
        """Add a study file that does not parse."""
        (self._folder("studies", name) / "defs.yaml").write_text(text)

    def remove_study(self, name: str) -> None:
        """Remove a study file."""
        shutil.rmtree(self._folder("studies", name))

    def live(self, **env: str) -> LiveDagster:
        """Servers on this project, not yet started."""
        # The copy of `pipelines` comes before the one in this checkout.
        path = os.pathsep.join([str(self.root), str(ROOT)])
        settings = {"SAE_CONCORD_STORE": str(self.store), "PYTHONPATH": path}
        return LiveDagster(self.home, "pipelines.definitions", self.root, settings | env)

    def _write(self, kind: str, attributes: dict[str, Any], component: str) -> None:
        content = {"type": f"assets.components.{component}", "attributes": attributes}
        (self._folder(kind, attributes["name"]) / "defs.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    def _folder(self, kind: str, name: str) -> Path:
        folder = self.defs / kind / name.replace("-", "_")
        folder.mkdir(parents=True, exist_ok=True)
        return folder
