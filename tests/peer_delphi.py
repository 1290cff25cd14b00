"""Scores by delphi's own functions; runs in an environment that has that package.

python -m tests.peer_delphi jobs.json results.json
"""

import asyncio
import json
import math
import re
import sys
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import pandas as pd
import sentence_transformers  # noqa: F401  before the stand-ins: it asks whether faiss is installed
import torch


class _Unused(ModuleType):
    """A package that delphi imports and that nothing here calls (its wheels are gigabytes)."""

    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock()


for _name in ("vllm", "vllm.distributed", "vllm.distributed.parallel_state", "vllm.inputs", "faiss", "sparsify"):
    sys.modules[_name] = _Unused(_name)

from delphi.clients.client import Response  # noqa: E402
from delphi.latents.latents import ActivatingExample, Latent, LatentRecord, NonActivatingExample  # noqa: E402
from delphi.latents.samplers import normalize_activations  # noqa: E402
from delphi.log.result_analysis import compute_auc, compute_classification_metrics, compute_confusion  # noqa: E402
from delphi.scorers import DetectionScorer, EmbeddingScorer, FuzzingScorer, OpenAISimulator  # noqa: E402
from delphi.scorers.simulator.simulation.scoring import simulate_and_score  # noqa: E402


class Reader:
    """Says how likely a text is, marked or not."""

    def __init__(self, probabilities):
        self.probabilities, self.shown = probabilities, []

    async def generate(self, prompt, **_):
        text = re.search(r"Example 0: (.*)", prompt[-1]["content"], re.DOTALL)[1].rstrip()
        self.shown.append(text)
        yes = self.probabilities[re.sub("<<|>>", "", text).strip()]
        top = [SimpleNamespace(token="1", logprob=math.log(yes)), SimpleNamespace(token="0", logprob=math.log(1 - yes))]
        answer = SimpleNamespace(token=str(int(yes >= 0.5)), top_logprobs=top)
        return Response(text=f"[{answer.token}]", logprobs=[answer])


def record_of(job):
    examples = [
        {"tokens": torch.arange(len(each["pieces"])), "activations": torch.tensor(each["activations"])}
        | {"str_tokens": each["pieces"]}
        for each in job["examples"]
    ]
    firing = [ActivatingExample(**each) for each in examples if (each["activations"] > 0).any()]
    silent = [NonActivatingExample(**each) for each in examples if not (each["activations"] > 0).any()]
    test = normalize_activations(firing, job["largest"])
    return LatentRecord(Latent("sae", 0), test=test, not_active=silent, explanation=job["explanation"])


def metrics(rows):
    frame = pd.DataFrame(rows)
    return compute_classification_metrics(compute_confusion(frame)) | {"auc": compute_auc(frame)}


def classify(scorer, record):
    return metrics([vars(each) for each in scorer.call_sync(record).score])


def simulate(job, record):
    predicted = {"".join(each["pieces"]): each["simulated"] for each in job["examples"]}

    async def answer(tokens):
        return predicted["".join(tokens)]

    decoded = iter([each.str_tokens for each in (*record.test, *record.not_active)])
    tokenizer = SimpleNamespace(batch_decode=lambda _: next(decoded))
    to_records = OpenAISimulator(None, tokenizer).to_activation_records
    firing, silent = to_records(record.test), to_records(record.not_active)
    groups = asyncio.run(simulate_and_score(SimpleNamespace(simulate=answer), firing, silent))
    return next(group.ev_correlation_score for group in groups if group.distance == 0)


def embed(job, record):
    def encode(texts):
        if isinstance(texts, str):
            return torch.tensor(job["vectors"][texts.split("Query:")[1]])
        return torch.tensor([job["vectors"][text.strip()] for text in texts])

    def similarity(query, rows):
        return torch.nn.functional.cosine_similarity(query[None], rows)[None]

    model = SimpleNamespace(encode=encode, similarity=similarity)
    fires = {"".join(each.str_tokens) for each in record.test}
    found = EmbeddingScorer(model).call_sync(record).score
    # delphi has no AUC of its own for this scorer: the one of its classifiers.
    return compute_auc(
        pd.DataFrame({"activating": each.text in fires, "probability": each.similarity} for each in found)
    )


def run(job):
    record, detector, marker = record_of(job), Reader(job["probabilities"]), Reader(job["probabilities"])
    return {
        "detection": classify(DetectionScorer(detector, log_prob=True), record),
        "fuzzing": classify(FuzzingScorer(marker, log_prob=True), record),
        "detected": detector.shown,
        "marked": marker.shown,
        "simulation": simulate(job, record),
        "embedding": embed(job, record),
    }


if __name__ == "__main__":
    jobs, results = sys.argv[1:]
    with open(jobs) as file:
        found = [run(job) for job in json.load(file)]
    with open(results, "w") as file:
        json.dump(found, file, default=float)
