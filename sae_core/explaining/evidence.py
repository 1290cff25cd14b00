"""What a model that writes explanations is shown of a feature: marked examples, or a list of words.

After EleutherAI's delphi (Paulo et al. 2024, https://arxiv.org/abs/2410.13928): tokens above 0.3 of the feature's
largest activation stand between << and >>, and are listed with their activations from 1 to 10.
"""

import json
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int64

from sae_core.feature_contexts.contexts import MARKED_SHARE, Example, FeatureContexts
from sae_core.held_out_text import HeldOutText

_LEVELS = 10
_MIN_WORD_SCORE = 0.1
"""Words that score less than this share of the best word's score are left out: many features have their long tail in
common."""


def show_examples(examples: Sequence[Example], largest: float, text: HeldOutText) -> str:
    """Marked examples, each above the list of its marked tokens and their activations.

    Args:
        largest: the feature's largest activation in that half of the text.
    """
    return "\n\n".join(
        f"Example {number}: {_one_line(_marked(example, largest, text))}\n"
        f"Activations: {_activations(example, largest, text)}"
        for number, example in enumerate(examples, 1)
    )


def levels(activations: Float32[np.ndarray, " n"], largest: float) -> Int64[np.ndarray, " n"]:
    """Activations as integers from 0 to 10, ``ceil(10 a / largest)``."""
    scaled = np.ceil(_LEVELS * np.asarray(activations, np.float64) / largest)
    return np.clip(scaled, 0, _LEVELS).astype(np.int64)


def choose_examples(examples: Sequence[Example], n: int) -> list[Example]:
    """At most so many activating examples: strongest ones and those of every quantile in turn, strongest first."""
    groups: dict[int, list[Example]] = {}
    for example in examples:
        if example.activating:
            groups.setdefault(-1 if example.kind == "strongest" else example.quantile, []).append(example)
    in_turn = [
        (turn, group, example) for group, members in sorted(groups.items()) for turn, example in enumerate(members)
    ]
    in_turn.sort(key=lambda each: each[:2])
    chosen = sorted(in_turn[:n], key=lambda each: (each[1], each[0]))
    return [example for _, _, example in chosen]


def list_words(contexts: FeatureContexts, place: int, half: int, n: int) -> list[str]:
    """Words on which a feature fires, the most telling first."""
    words = contexts.words(place, half, "now")
    least = _MIN_WORD_SCORE * words[0].score if words else 0.0
    return [word.word for word in words if word.score > 0 and word.score >= least][:n]


def _marked(example: Example, largest: float, text: HeldOutText) -> str:
    return text.marked(example.start, example.stop, _is_marked(example, largest))


def _is_marked(example: Example, largest: float) -> np.ndarray:
    marked: np.ndarray = example.activations > MARKED_SHARE * largest
    return marked


def _activations(example: Example, largest: float, text: HeldOutText) -> str:
    pieces = text.pieces(example.start, example.stop)
    marked = np.flatnonzero(_is_marked(example, largest))
    of_token = levels(example.activations, largest)
    return ", ".join(f"({json.dumps(pieces[i], ensure_ascii=False)}, {of_token[i]})" for i in marked if pieces[i])


def _one_line(text: str) -> str:
    """Line breaks written out: an example is one line of the prompt."""
    return text.replace("\n", "\\n").replace("\r", "\\r").strip()
