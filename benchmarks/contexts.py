"""Tokens per second of the contexts pass beside those of the truncated forward pass and of encoding.

    OMP_WAIT_POLICY=passive python -m benchmarks.contexts --tokens 60000 --repeats 3 --threads 2

*Forward* is the language model up to the hook over held-out contexts, nothing kept. *Encode* is ``sae.encode`` on the
activations that came out, in memory, nothing kept. *Contexts* is ``collect_contexts`` with its default settings on the
same activations in shards: it reads and encodes them, and writes codes, examples, words and the logit lens; the
words and documents of the text are found anew each time. Methods take turns; wall and CPU time (of all threads),
medians. The SAEs are untrained TopK with k = 32: as many active codes a token as trained ones have.

Last line of each SAE: throughput of forward and contexts together, as a share of that of forward and encode; the bar is
.80. Then the largest memory of the process.
"""

import argparse
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml

from benchmarks.extraction import ROOT, alternated
from sae_core.architectures import Sae, build
from sae_core.config import ContextsConfig, ModelConfig, TopKConfig
from sae_core.corpus import ContextSplit, load_documents, open_contexts, write_contexts
from sae_core.extraction_plan import kept_tokens
from sae_core.feature_contexts import collect_contexts
from sae_core.feature_contexts.codes import tokens_at_once
from sae_core.held_out_text import HeldOutText
from sae_core.language_models import LanguageModel, load_language_model
from sae_core.shards import ShardData, Shards, write_shards
from sae_core.store import ArtifactStore
from sae_core.words import Segmenter


def forward_pass(model: LanguageModel, contexts: ContextSplit, config: ModelConfig) -> list[torch.Tensor]:
    """Activations of all contexts, a batch each."""
    size = config.activations.batch_contexts
    return [
        model.read(torch.tensor(contexts.token_ids[first : first + size]), config.hooks[0])
        for first in range(0, contexts.n_contexts, size)
    ]


def held_out_shards(folder: Path, model: LanguageModel, contexts: ContextSplit, config: ModelConfig) -> Shards:
    """What extraction keeps of the forward pass, in one shard."""
    activations = torch.cat([batch.cpu() for batch in forward_pass(model, contexts, config)])
    kept = kept_tokens(contexts.token_ids, model.special_token_ids, config.activations)
    row, position = np.nonzero(kept)
    ids = (contexts.token_ids[kept], row.astype(np.int64), position.astype(np.int32))
    return write_shards(folder, [ShardData(activations[torch.from_numpy(kept)].float(), *ids)])


def encoding(sae: Sae, x: torch.Tensor) -> Callable[[], None]:
    """Encode everything, as many tokens at a time as ``collect_contexts`` does."""
    size = tokens_at_once(sae.d_sae)

    @torch.no_grad()
    def run() -> None:
        for first in range(0, len(x), size):
            sae.encode(x[first : first + size])

    return run


def contexts_pass(sae: Sae, shards: Shards, contexts: ContextSplit, model: LanguageModel) -> Callable[[], None]:
    """Collect the contexts of an SAE into a new folder."""

    def run() -> None:
        segmenter = Segmenter(model.tokenizer, model.special_token_ids)
        text = HeldOutText(ContextSplit(contexts.path, contexts.context_length), segmenter)
        with tempfile.TemporaryDirectory() as folder:
            collect_contexts(Path(folder), sae, shards, text, model, ContextsConfig())

    return run


def show(found: dict[str, tuple[float, float]], n_tokens: int, d_sae: int) -> None:
    """Print tokens per second of each, and of both stages together."""
    for name, (wall, cpu) in found.items():
        print(f"{name:16} {n_tokens / wall:10,.0f} tokens/s  {n_tokens / cpu:10,.0f} tokens per CPU s", flush=True)
    shares = [
        (found["forward"][clock] + found["encode"][clock]) / (found["forward"][clock] + found["contexts"][clock])
        for clock in range(2)
    ]
    alone = [(found["forward"][clock] + found["encode"][clock]) / found["contexts"][clock] for clock in range(2)]
    print(
        f"d_sae {d_sae:,}: forward + contexts at {shares[0]:.2f} of the throughput of forward + encode (CPU "
        f"{shares[1]:.2f}); contexts alone from stored activations at {alone[0]:.1f} times it (CPU {alone[1]:.1f})"
    )
    print(f"largest memory of the process so far: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "pipelines/defs/models/smollm2/defs.yaml")
    parser.add_argument("--store", default=str(ROOT / ".concord" / "store"), help="keeps the converted language model")
    for name, default in (("tokens", 60_000), ("repeats", 3), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--d-sae", type=int, nargs="+", default=[1024, 16384])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    config = ModelConfig.model_validate(yaml.safe_load(given.model.read_text())["attributes"])
    corpus = config.corpus.model_copy(update={"n_tokens": int(given.tokens / config.corpus.held_out_fraction)})
    model = load_language_model(config, ArtifactStore(given.store))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_contexts(folder, load_documents(corpus.source), model.tokenizer, corpus)
        contexts = open_contexts(folder).split("held_out")
        shards = held_out_shards(folder / "shards", model, contexts, config)
        x = shards.read(0).activations
        print(
            f"{config.name}, {config.hooks[0]}, {contexts.token_ids.size:,} held-out tokens, {given.threads} threads",
            flush=True,
        )

        def forward() -> None:
            forward_pass(model, contexts, config)

        for d_sae in given.d_sae:
            sae = build(TopKConfig(d_sae=d_sae, k=32), shards.d_in, seed=0)
            methods = {
                "forward": forward,
                "encode": encoding(sae, x),
                "contexts": contexts_pass(sae, shards, contexts, model),
            }
            show(alternated(methods, given.repeats), contexts.token_ids.size, d_sae)


if __name__ == "__main__":
    main()
