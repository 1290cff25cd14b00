"""Scores of explanations in words, by a model that reads them: it detects, finds marks, and simulates.

As in delphi, but for one example a question. A question without an answer is left out of the scores and counted.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from jaxtyping import Bool, Float

from sae_core.chat.messages import ChatModel, Conversation, Missing, Reply
from sae_core.chat.prompts import load_prompt
from sae_core.held_out_text import HeldOutText
from sae_core.progress import Progress, silent
from sae_core.scoring.formulas import normalised, pearson
from sae_core.scoring.grading import CONSTANT, NEVER_FIRES, TaskScores, grade
from sae_core.scoring.marks import right_marks, wrong_marks
from sae_core.scoring.results import ScoreName, Task
from sae_core.scoring.tasks import TaskExamples

YES_NO = ("yes", "no")
UNREADABLE = Missing("the simulation is not a list of numbers from 0 to 10")
OTHER_LENGTH = Missing("the simulation has another number of tokens than the example")
CUT_OFF = Missing("the simulation was cut off by max_new_tokens")


@dataclass(frozen=True)
class Subject:
    """An explanation in words and what it is scored on."""

    feature: int
    explanation: str
    largest: float
    """Largest activation of the feature in the half that the examples are from."""
    examples: TaskExamples


@dataclass(frozen=True)
class ChatScores:
    """What a model made of some explanations."""

    scores: list[dict[Task, TaskScores | Missing]]
    n_trials: int
    """Questions."""
    missing_trials: dict[str, int]
    """Those without an answer, by reason."""


def chat_scores(
    subjects: Sequence[Subject], text: HeldOutText, scorer: ChatModel, seed: int, progress: Progress = silent
) -> ChatScores:
    """Detection, fuzzing and simulation of explanations by a model that reads them.

    Args:
        seed: of the wrong marks.

    Raises:
        ChatUnavailable: if too many requests failed for the endpoint's reasons.
    """
    asked = [each for each in subjects if each.examples.activating.any()]
    detected = scorer.choose([turn for each in asked for turn in _detect(each, text)], YES_NO, progress)
    judged = scorer.choose([turn for each in asked for turn in _fuzz(each, text, seed)], YES_NO, progress)
    written = scorer.complete([turn for each in asked for turn in _simulate(each, text)], progress=progress)
    lengths = [length for each in asked for length in each.examples.length.tolist()]
    simulated = [read_simulation(reply, length) for reply, length in zip(written, lengths, strict=True)]
    answers = iter(detected), iter(judged), iter(simulated)
    missing = Counter(each.reason for each in (*detected, *judged, *simulated) if isinstance(each, Missing))
    return ChatScores(
        [_score(each, *answers) if each.examples.activating.any() else _not_asked() for each in subjects],
        len(detected) + len(judged) + len(simulated),
        dict(sorted(missing.items())),
    )


def _not_asked() -> dict[Task, TaskScores | Missing]:
    return dict.fromkeys(("detection", "fuzzing", "simulation"), NEVER_FIRES)


def _score(
    subject: Subject,
    detected: Iterator[list[float] | Missing],
    judged: Iterator[list[float] | Missing],
    simulated: Iterator[np.ndarray | Missing],
) -> dict[Task, TaskScores | Missing]:
    """Scores from the next answers, as many as the subject has examples."""
    n = len(subject.examples.kind)
    return {
        "detection": _grade("detection", list(islice(detected, n)), subject.examples),
        "fuzzing": _grade("fuzzing", list(islice(judged, n)), subject.examples),
        "simulation": _correlate(list(islice(simulated, n)), subject),
    }


def _detect(subject: Subject, text: HeldOutText) -> list[Conversation]:
    prompt = load_prompt("detect")
    return [
        prompt.fill(explanation=subject.explanation, example=text.text(start, stop).strip())
        for start, stop in _spans(subject.examples)
    ]


def _fuzz(subject: Subject, text: HeldOutText, seed: int) -> list[Conversation]:
    """delphi's default fuzzing: right marks in activating examples, wrong ones in the others."""
    prompt, examples = load_prompt("fuzz"), subject.examples
    marks = np.where(
        examples.activating[examples.example], right_marks(examples), wrong_marks(examples, subject.feature, seed)
    )
    parts = np.split(marks, examples.begin[1:])
    return [
        prompt.fill(explanation=subject.explanation, example=text.marked(start, stop, part).strip())
        for (start, stop), part in zip(_spans(examples), parts, strict=True)
    ]


def _simulate(subject: Subject, text: HeldOutText) -> list[Conversation]:
    prompt = load_prompt("simulate")
    return [
        prompt.fill(
            explanation=subject.explanation,
            tokens=json.dumps(text.pieces(start, stop), ensure_ascii=False),
            n_tokens=str(stop - start),
        )
        for start, stop in _spans(subject.examples)
    ]


def _spans(examples: TaskExamples) -> list[tuple[int, int]]:
    stops = examples.start + examples.length
    return list(zip(examples.start.tolist(), stops.tolist(), strict=True))


def read_simulation(reply: Reply | Missing, n_tokens: int) -> Float[np.ndarray, " n"] | Missing:
    """The numbers of a simulation: the first JSON list in the reply, one number from 0 to 10 for each token."""
    if isinstance(reply, Missing):
        return reply
    begin, end = reply.text.find("["), reply.text.find("]")
    if begin < 0 or end < begin:
        return UNREADABLE if reply.finished else CUT_OFF
    try:
        values = json.loads(reply.text[begin : end + 1])
    except json.JSONDecodeError:
        return UNREADABLE
    if not all(type(value) in (int, float) and 0 <= value <= 10 for value in values):
        return UNREADABLE
    return np.array(values, np.float64) if len(values) == n_tokens else OTHER_LENGTH


def _grade(task: Task, answers: Sequence[list[float] | Missing], examples: TaskExamples) -> TaskScores | Missing:
    """Scores over the examples that have an answer; the reason why there is none where too few have one."""
    given = np.array([not isinstance(answer, Missing) for answer in answers])
    if not _both(given, examples):
        return _commonest(answers) or grade(task, np.zeros(len(given)), examples.kind)
    yes = np.array([answer[0] for answer in answers if not isinstance(answer, Missing)])
    return grade(task, yes, examples.kind[given])


def _correlate(simulated: Sequence[np.ndarray | Missing], subject: Subject) -> TaskScores | Missing:
    """Pearson r over the tokens of all examples that were simulated."""
    examples = subject.examples
    given = np.array([not isinstance(each, Missing) for each in simulated])
    if not (given & examples.activating).any():
        return _commonest(simulated) or NEVER_FIRES
    predicted = np.concatenate([each for each in simulated if not isinstance(each, Missing)])
    truth = normalised(examples.activations, subject.largest)[given[examples.example]]
    correlation = pearson(predicted, truth)
    return CONSTANT if correlation is None else {ScoreName("simulation", "pearson"): correlation}


def _both(given: Bool[np.ndarray, " n"], examples: TaskExamples) -> bool:
    """Whether examples with and without the feature were answered."""
    return bool((given & examples.activating).any() and (given & ~examples.activating).any())


def _commonest(answers: Sequence[object]) -> Missing | None:
    """The most frequent reason for a missing answer; None if none is missing."""
    reasons = Counter(answer.reason for answer in answers if isinstance(answer, Missing))
    return Missing(reasons.most_common(1)[0][0]) if reasons else None
