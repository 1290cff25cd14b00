"""Who writes the explanations: from the words a feature fires on, or a small language model that reads them.

Place in the flow: feature contexts -> **explainers** -> explanations. An explainer never invents: where it has
nothing to say, or what came out cannot be read, the explanation is missing, with a reason that is counted.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Protocol, final, runtime_checkable

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from sae_core import config
from sae_core.language_models import LanguageModel
from sae_core.progress import Progress, silent

_PROMPT = "prompts/word_list.txt"


@dataclass(frozen=True)
class FeatureWords:
    """What is known about a feature from one half of the text."""

    words: list[str]
    """Words it fires on, the most telling first."""
    promoted: list[str]
    """Words it makes likelier, by the logit lens, the strongest first."""
    examples: list[str]
    """Its strongest contexts, the word it fires on marked «so»."""


@dataclass(frozen=True)
class Missing:
    """No explanation, and why; equal reasons are counted together."""

    reason: str


@runtime_checkable
class Explainer(Protocol):
    """Turns evidence into text."""

    n_words: int
    """Words of evidence it wants for a feature."""

    def explain(self, features: Sequence[FeatureWords], progress: Progress = silent) -> list[str | Missing]:
        """An explanation, or the reason why there is none, for each feature, in their order."""
        ...


NO_WORDS = Missing("no telling word")


@final
class LexicalExplainer:
    """The words themselves, separated by commas: no label stands between them, for a label shared by all
    explanations would make all of them alike to a sentence embedder."""

    def __init__(self, settings: config.LexicalExplainer):
        self.n_words, self.n_promoted = settings.n_words, settings.n_promoted

    def explain(self, features: Sequence[FeatureWords], progress: Progress = silent) -> list[str | Missing]:
        """An explanation, or the reason why there is none, for each feature, in their order."""
        return [self._join(feature) if feature.words else NO_WORDS for feature in features]

    def _join(self, feature: FeatureWords) -> str:
        return ", ".join(feature.words[: self.n_words] + feature.promoted[: self.n_promoted])


@final
class LocalExplainer:
    """A small instruct model completes a few-shot list of word lists and their categories; greedy, in batches.

    Small models cannot explain raw excerpts, but some of them can name what a list of words has in common.
    """

    def __init__(self, settings: config.LocalExplainer, model: LanguageModel):
        self.n_words = settings.n_words
        self.batch_size, self.max_new_tokens = settings.batch_size, settings.max_new_tokens
        self._model, self._prompt = model, read_prompt()

    def explain(self, features: Sequence[FeatureWords], progress: Progress = silent) -> list[str | Missing]:
        """An explanation, or the reason why there is none, for each feature, in their order."""
        found: list[str | Missing] = [NO_WORDS] * len(features)
        # Prompts of like length share a batch, so that little is padded.
        known = [i for i, feature in enumerate(features) if feature.words]
        known.sort(key=lambda i: (len(", ".join(features[i].words)), i))
        for start in range(0, len(known), self.batch_size):
            batch = known[start : start + self.batch_size]
            for i, text in zip(batch, self._complete([self._fill(features[i]) for i in batch]), strict=True):
                found[i] = read_answer(text)
            done = start + len(batch)
            progress(done, len(known), f"{done:,} of {len(known):,} explanations written")
        return found

    def _fill(self, feature: FeatureWords) -> str:
        return self._prompt.format(words=", ".join(feature.words[: self.n_words]))

    @torch.no_grad()
    def _complete(self, prompts: list[str]) -> list[str]:
        """What the model writes after each prompt, up to the end of the line."""
        model, tokenizer = self._model.model, self._model.tokenizer
        rows = [tokenizer(prompt)["input_ids"] for prompt in prompts]
        length = max(len(row) for row in rows)
        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
        token_ids = torch.tensor([[padding] * (length - len(row)) + row for row in rows], device=self._model.device)
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=self._model.device)
        written = model.generate(
            input_ids=token_ids,
            attention_mask=mask,
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=padding,
            stopping_criteria=StoppingCriteriaList([_LineEnd(tokenizer, length)]),
        )[:, length:]
        # An end-of-text token ends the line too; in a row that ended before, it is padding.
        ended = torch.isin(written, _end_tokens(model, padding)).any(dim=1).tolist()
        texts = tokenizer.batch_decode(written, skip_special_tokens=True)
        return [f"{text}\n" if end else str(text) for text, end in zip(texts, ended, strict=True)]


class _LineEnd(StoppingCriteria):  # type: ignore[misc]
    """Stops a row once it has written a line break, whatever the tokenizer makes of one."""

    def __init__(self, tokenizer: Any, start: int):
        self.tokenizer, self.start = tokenizer, start

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        texts = self.tokenizer.batch_decode(input_ids[:, self.start :], skip_special_tokens=True)
        return torch.tensor(["\n" in text for text in texts], device=input_ids.device)


def _end_tokens(model: Any, padding: int) -> torch.Tensor:
    ends = model.generation_config.eos_token_id
    ids = [padding] if ends is None else [padding, *(ends if isinstance(ends, list) else [ends])]
    return torch.tensor(ids, device=model.device)


def read_answer(text: str) -> str | Missing:
    """The category in what the model wrote: its first line, if that is one. (" animals\\nWords:" gives "animals")"""
    body = text.lstrip(" ")
    line = body.split("\n")[0].strip().strip("\"'.").strip()
    if not line:
        return Missing("the model wrote nothing")
    if "\n" not in body:
        return Missing("the model did not come to an end")
    if not any(character.isalpha() for character in line):
        return Missing("the model wrote no word")
    if line.lower().startswith(("words:", "category:")):
        return Missing("the model repeated the prompt")
    return line


def read_prompt() -> str:
    """The prompt of the local explainer, with ``{words}`` where the word list goes; no line break at its end."""
    return resources.files(__package__ or "sae_core").joinpath(_PROMPT).read_text(encoding="utf-8").rstrip("\n")


def prompt_digest() -> str:
    """sha256 of the prompt: a change of its wording is a change of the explanations."""
    return hashlib.sha256(read_prompt().encode()).hexdigest()
