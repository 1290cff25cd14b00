"""delphi scores the same explanations on the same examples alike: its functions, run in an environment of its own."""

import hashlib
import json
import re
import subprocess

import numpy as np
import pytest

from sae_core.chat.messages import Reply, Usage
from sae_core.config import ScoringConfig
from sae_core.scoring.chat_scores import Subject, chat_scores
from sae_core.scoring.embedding_scores import embedding_scores
from sae_core.scoring.results import ScoreName
from sae_core.scoring.tasks import TaskChooser
from tests.test_scoring_models import embed
from tests.tiny_scoring import contexts_of, made_up_text

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # the first run installs delphi


@pytest.fixture(scope="module")
def delphi_python():
    from tests.peer_environments import python_with

    # delphi asks for vllm, faiss and more, of which its scores need nothing.
    return python_with(
        "delphi", "torch==2.13.0", "sentence-transformers", "pandas", "scikit-learn", "simple_parsing", "orjson",
        "plotly", "blobfile", "aiofiles", "asyncer", "tiktoken", "jaxtyping", "beartype", "httpx", "fire",
        "--no-deps eai-delphi==0.1.3",
    )  # fmt: skip


def probability(text):
    """Of yes: a number between 0.05 and 0.95 that depends on the words alone, not on marks."""
    plain = re.sub("<<|>>", "", text).strip()
    return 0.05 + 0.9 * hashlib.sha256(plain.encode()).digest()[0] / 255


def simulation(pieces):
    return [hashlib.sha256(piece.strip().encode()).digest()[0] % 11 for piece in pieces]


class Reader:
    """Answers as ``probability`` and ``simulation`` say, and remembers what it was shown."""

    digest, usage = "reader", Usage()

    def __init__(self):
        self.shown = []

    def choose(self, conversations, options, progress=None):
        texts = [re.search(r"Excerpt: (.*)\n\n", each[-1].content, re.DOTALL)[1] for each in conversations]
        self.shown.append(texts)
        return [[probability(text), 1 - probability(text)] for text in texts]

    def complete(self, conversations, stop=None, progress=None):
        tokens = [each[-1].content for each in conversations]
        return [Reply(json.dumps(simulation(json.loads(each[each.index("[") :]))), True, "") for each in tokens]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return made_up_text(tmp_path_factory.mktemp("text"), n_contexts=120)


@pytest.fixture(scope="module")
def subjects(text):
    """Features on one word, on two words of different strength, and at random."""
    rng = np.random.default_rng(0)
    codes = np.zeros((len(text), 3))
    codes[:, 0] = (text.word == 3) * rng.uniform(1, 9, len(text))
    codes[:, 1] = (text.word == 4) * 5 + (text.word == 5) * 1.2
    codes[:, 2] = (rng.random(len(text)) < 0.2) * rng.uniform(0, 1, len(text))
    contexts = contexts_of(text, codes)
    chooser = TaskChooser(contexts, ScoringConfig())
    return [
        Subject(
            place, text.words.texts[place], float(contexts.max_activation[place, half]), chooser.examples(place, half)
        )
        for place in range(3)
        for half in range(2)
    ]


def _job(subject, text):
    examples = subject.examples
    spans = [(int(start), int(start + length)) for start, length in zip(examples.start, examples.length, strict=True)]
    pieces = [text.pieces(*span) for span in spans]
    windows = ["".join(each).strip() for each in pieces]
    vectors = embed([subject.explanation, *windows])
    return {
        "explanation": subject.explanation,
        "largest": subject.largest,
        "examples": [
            {"pieces": each, "activations": part.tolist(), "simulated": simulation(each)}
            for each, part in zip(pieces, np.split(examples.activations, examples.begin[1:]), strict=True)
        ],
        "probabilities": {window: probability(window) for window in windows},
        "vectors": dict(zip([subject.explanation, *windows], vectors.tolist(), strict=True)),
    }


@pytest.fixture(scope="module")
def theirs(delphi_python, subjects, text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("delphi")
    (folder / "jobs.json").write_text(json.dumps([_job(subject, text) for subject in subjects]))
    command = [delphi_python, "-m", "tests.peer_delphi", folder / "jobs.json", folder / "results.json"]
    subprocess.run(command, check=True)
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("task", ["detection", "fuzzing"])
def test_balanced_accuracy_f1_and_auc_are_those_of_delphi(subjects, text, theirs, task):
    ours = chat_scores(subjects, text, Reader(), seed=0).scores
    for found, expected in zip(ours, theirs, strict=True):
        assert found[task][ScoreName(task, "balanced_accuracy")] == pytest.approx(expected[task]["accuracy"])
        assert found[task][ScoreName(task, "f1")] == pytest.approx(expected[task]["f1_score"])
        assert found[task][ScoreName(task, "auc")] == pytest.approx(expected[task]["auc"])


def test_the_correlation_of_a_simulation_is_that_of_delphi(subjects, text, theirs):
    ours = chat_scores(subjects, text, Reader(), seed=0).scores
    for found, expected in zip(ours, theirs, strict=True):
        assert found["simulation"][ScoreName("simulation", "pearson")] == pytest.approx(expected["simulation"])


def test_embedding_auc_is_that_of_delphis_similarities(subjects, text, theirs):
    ours = embedding_scores([each.explanation for each in subjects], [each.examples for each in subjects], text, embed)
    for found, expected in zip(ours, theirs, strict=True):
        assert found[ScoreName("embedding", "auc")] == pytest.approx(expected["embedding"], abs=0.02)


def test_examples_are_shown_as_delphi_shows_them(subjects, text, theirs):
    """The same texts, the same right marks, and as many wrong ones; which tokens they are on is drawn."""
    for subject, expected in zip(subjects, theirs, strict=True):
        reader = Reader()
        chat_scores([subject], text, reader, seed=0)
        detected, marked = reader.shown
        assert sorted(detected) == sorted(each.strip() for each in expected["detected"])
        n = int(subject.examples.activating.sum())
        assert set(marked[:n]) <= {each.strip() for each in expected["marked"]}
        plain = {re.sub("<<|>>", "", each).strip(): each for each in expected["marked"]}
        for each in marked[n:]:
            assert _n_marked(each) == _n_marked(plain[re.sub("<<|>>", "", each).strip()])


def _n_marked(text):
    return sum(len(found.split()) for found in re.findall("<<(.*?)>>", text, re.DOTALL))
