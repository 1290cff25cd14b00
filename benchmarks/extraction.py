"""Tokens per second of extraction beside those of the bare forward pass, and of reading shards beside training.

    OMP_WAIT_POLICY=passive python -m benchmarks.extraction --tokens 40000 --repeats 3 --threads 2

The bare forward pass is the language model with the layers behind the hook taken off, over the same contexts in the
same batches and the same order, nothing kept; the 64 contexts that extraction reads twice, to find the median norm,
are read twice there too. Extraction reads, selects, converts, permutes, writes and hashes shards on top. Methods take
turns; wall and CPU time (of all threads), medians. Then batches are read from the shards that were written, as training
reads them, beside steps of a TopK SAE on them.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml

from sae_core.activations import MEDIAN_CONTEXTS, extract
from sae_core.architectures import build
from sae_core.config import ModelConfig, TopKConfig, TrainingConfig
from sae_core.corpus import SPLITS, Contexts, load_documents, open_contexts, write_contexts
from sae_core.extraction_plan import plan_split
from sae_core.language_models import LanguageModel, load_language_model
from sae_core.shards import open_shards
from sae_core.store import ArtifactStore
from sae_core.training import train

ROOT = Path(__file__).resolve().parent.parent


def bare_pass(model: LanguageModel, contexts: Contexts, config: ModelConfig, hook: str) -> Callable[[], None]:
    """The language model up to the hooked layer, on the contexts of both splits in the order of extraction."""
    number = int(hook.rsplit(".", 1)[1])
    body = model.model.get_decoder()
    plans = [plan_split(contexts, name, model.special_token_ids, config.activations) for name in SPLITS]
    first = np.concatenate(plans[0].shards)[:MEDIAN_CONTEXTS]
    passes = [(plans[0], [first]), *((plan, plan.shards) for plan in plans)]

    @torch.no_grad()
    def run() -> None:
        layers = body.layers
        body.layers = layers[: number + 1]
        try:
            for plan, shards in passes:
                for chosen in shards:  # extraction begins a batch with each shard
                    for first in range(0, len(chosen), config.activations.batch_contexts):
                        batch = plan.token_ids[chosen[first : first + config.activations.batch_contexts]]
                        body(input_ids=torch.from_numpy(batch).to(model.device, torch.long), use_cache=False)
        finally:
            body.layers = layers

    return run


def alternated(methods: dict[str, Callable[[], None]], repeats: int) -> dict[str, tuple[float, float]]:
    """Medians of wall and CPU seconds; the first run of each is not counted."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    for turn in range(repeats + 1):
        for name, method in methods.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            method()
            if turn:
                seconds[name].append((time.perf_counter() - start, time.process_time() - start_cpu))
    return {
        name: (statistics.median(wall for wall, _ in runs), statistics.median(cpu for _, cpu in runs))
        for name, runs in seconds.items()
    }


def show(found: dict[str, tuple[float, float]], n_tokens: int, baseline: str) -> None:
    """Print tokens per second, and throughput relative to the baseline."""
    for name, (wall, cpu) in found.items():
        print(
            f"{name:20} {n_tokens / wall:12,.0f} tokens/s  {n_tokens / cpu:12,.0f} tokens per CPU s   "
            f"x {found[baseline][0] / wall:.3f} of {baseline} (CPU {found[baseline][1] / cpu:.3f})",
            flush=True,
        )


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "pipelines/defs/models/smollm2/defs.yaml")
    parser.add_argument("--store", default=str(ROOT / ".concord" / "store"), help="keeps the converted language model")
    for name, default in (("tokens", 40_000), ("repeats", 3), ("threads", 2), ("d-sae", 4096), ("batches", 12)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    config = ModelConfig.model_validate(yaml.safe_load(given.model.read_text())["attributes"])
    hook, corpus = config.hooks[0], config.corpus.model_copy(update={"n_tokens": given.tokens})
    model = load_language_model(config, ArtifactStore(given.store))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "contexts").mkdir()
        write_contexts(folder / "contexts", load_documents(corpus.source), model.tokenizer, corpus)
        contexts = open_contexts(folder / "contexts")
        places = iter(range(1_000))

        def extraction() -> None:
            place = folder / f"shards-{next(places)}"
            place.mkdir()
            extract(place, model, contexts, hook, config.activations)

        methods = {"bare forward pass": bare_pass(model, contexts, config, hook), "extraction": extraction}
        found = alternated(methods, given.repeats)
        print(f"{config.name}, {hook}, {given.threads} threads, {config.activations.batch_contexts} contexts a batch")
        show(found, sum(contexts.split(split).token_ids.size for split in SPLITS), "bare forward pass")

        shards = open_shards(folder / "shards-0" / "train")
        batch_size = min(2048, shards.n_tokens)
        training = TrainingConfig(
            n_steps=given.batches, batch_size=batch_size, warmup_steps=0, sparsity_warmup_steps=0, checkpoints=[]
        )

        def reading() -> None:
            batches = shards.batches(batch_size, seed=0)
            for _ in range(given.batches):
                np.asarray(next(batches))

        def steps() -> None:
            train(build(TopKConfig(d_sae=given.d_sae, k=32), shards.d_in, seed=0), iter(held), training)

        stream = shards.batches(batch_size, seed=0)
        held = [next(stream) for _ in range(given.batches)]
        print(f"TopK k=32, {shards.d_in} x {given.d_sae}, batches of {batch_size} from shards of {shards.dtype}")
        show(
            alternated({"training": steps, "reading shards": reading}, given.repeats),
            given.batches * batch_size,
            "training",
        )


if __name__ == "__main__":
    main()
