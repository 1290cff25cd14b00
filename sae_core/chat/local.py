"""A small model on this machine that writes text: batched and greedy, so the same prompt gives the same reply."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, final

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from sae_core import config
from sae_core.chat.batches import Batch, make_batch, read_prefix
from sae_core.chat.messages import Conversation, Missing, Reply, Usage
from sae_core.chat.rendering import PLAIN_TURN, first_tokens, is_plain, render
from sae_core.chat.replies import ReplyStore, StoredReply, as_reply, read_choice
from sae_core.chat.requests import LONG_PROMPT, Request, make_requests, split_by_store
from sae_core.language_models import LanguageModel
from sae_core.progress import Progress, silent
from sae_core.store import digest_json

_Answers = dict[str, StoredReply | Missing]


@final
class LocalChatModel:
    """A causal language model, with its chat template where it has one.

    Args:
        replies: where replies are kept; None keeps none.
    """

    def __init__(self, settings: config.LocalChat, model: LanguageModel, replies: ReplyStore | None = None):
        self.usage = Usage()
        self._name, self._max_new_tokens = settings.model.name, settings.max_new_tokens
        self._batch_size, self._model, self._replies = settings.batch_size, model, replies
        tokenizer = model.tokenizer
        self._padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
        self.digest = digest_json(
            {"kind": "local", "model": model.digest, "dtype": settings.model.dtype, "length": settings.max_new_tokens}
        )

    def complete(
        self, conversations: Sequence[Conversation], stop: str | None = None, progress: Progress = silent
    ) -> list[Reply | Missing]:
        """A reply to each conversation, in their order; see ``ChatModel``."""
        requests = make_requests(self.digest, conversations, stop)
        found = self._answer(requests, self._write, self._max_new_tokens, progress)
        answers = [found[request.digest] for request in requests]
        return [
            answer if isinstance(answer, Missing) else as_reply(request.digest, answer)
            for request, answer in zip(requests, answers, strict=True)
        ]

    def choose(
        self, conversations: Sequence[Conversation], options: Sequence[str], progress: Progress = silent
    ) -> list[list[float] | Missing]:
        """The probability of each option, by the logits of the reply's first token; see ``ChatModel``.

        Raises:
            ValueError: if two options begin with the same token.
        """
        requests = make_requests(self.digest, conversations, options=options)
        tokens = first_tokens(self._model.tokenizer, tuple(options))

        def weigh(batch: list[Request], inputs: Batch) -> list[StoredReply]:
            return self._weigh(batch, inputs, tokens)

        found = self._answer(requests, weigh, 1, progress)
        answers = [found[request.digest] for request in requests]
        return [answer if isinstance(answer, Missing) else read_choice(answer) for answer in answers]

    def _answer(
        self,
        requests: list[Request],
        ask: Callable[[list[Request], Batch], list[StoredReply]],
        n_new_tokens: int,
        progress: Progress,
    ) -> _Answers:
        """Answers by digest: from the store, or from batches of prompts of like length."""
        stored, wanted = split_by_store(requests, self._replies)
        answers: _Answers = dict(stored)
        rows = {request.digest: render(self._model.tokenizer, request.conversation) for request in wanted}
        room = self._n_positions() - n_new_tokens
        answers |= {digest: Missing(LONG_PROMPT) for digest, row in rows.items() if len(row) > room}
        wanted = sorted(
            (each for each in wanted if each.digest not in answers), key=lambda each: len(rows[each.digest])
        )
        prefix = read_prefix(self._model.model, [rows[request.digest] for request in wanted])
        for start in range(0, len(wanted), self._batch_size):
            batch = wanted[start : start + self._batch_size]
            inputs = make_batch(prefix, [rows[each.digest] for each in batch], self._padding, self._model.device)
            for request, reply in zip(batch, ask(batch, inputs), strict=True):
                answers[request.digest] = reply
                if self._replies is not None:
                    self._replies.put(request.digest, reply)
            done = start + len(batch)
            progress(done, len(wanted), f"{done:,} of {len(wanted):,} replies by {self._name}")
        self._count(requests, answers, stored)
        return answers

    def _count(self, requests: list[Request], answers: _Answers, stored: dict[str, StoredReply]) -> None:
        new = [reply for digest, reply in answers.items() if digest not in stored and isinstance(reply, StoredReply)]
        self.usage = replace(
            self.usage,
            n_requests=self.usage.n_requests + len(requests),
            n_from_store=self.usage.n_from_store + sum(request.digest in stored for request in requests),
            n_failed=self.usage.n_failed + sum(isinstance(answers[each.digest], Missing) for each in requests),
            n_prompt_tokens=self.usage.n_prompt_tokens + sum(reply.n_prompt_tokens for reply in new),
            n_reply_tokens=self.usage.n_reply_tokens + sum(reply.n_reply_tokens for reply in new),
        )

    def _n_positions(self) -> int:
        """Tokens the model reads and writes together, at most."""
        positions = getattr(self._model.model.config.get_text_config(), "max_position_embeddings", None)
        return min(
            int(positions or self._model.tokenizer.model_max_length), int(self._model.tokenizer.model_max_length)
        )

    @torch.no_grad()
    def _write(self, batch: list[Request], inputs: Batch) -> list[StoredReply]:
        """Greedy replies of one batch."""
        length = inputs.token_ids.shape[1]
        tokenizer = self._model.tokenizer
        stops = [self._stops(request) for request in batch]
        written = self._model.model.generate(
            input_ids=inputs.token_ids,
            attention_mask=inputs.mask,
            past_key_values=inputs.cache,
            max_new_tokens=self._max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=self._padding,
            stopping_criteria=StoppingCriteriaList([_Stop(tokenizer, length, stops)]) if any(stops) else None,
        )[:, length:]
        # An end-of-text token ends a reply; in a row that stopped before, it is padding.
        ended = torch.isin(written, self._end_tokens())
        texts = tokenizer.batch_decode(written, skip_special_tokens=True)
        replies = []
        for i, (request, text) in enumerate(zip(batch, texts, strict=True)):
            cut = _cut(text, stops[i])
            n_reply = int((~ended[i]).sum())
            finished = cut is not None or bool(ended[i].any())
            body = text if cut is None else cut
            replies.append(request.stored(self._name, body, finished, int(inputs.mask[i].sum()), n_reply))
        return replies

    @torch.no_grad()
    def _weigh(self, batch: list[Request], inputs: Batch, tokens: list[list[int]]) -> list[StoredReply]:
        """Probabilities of the options, each the sum over its first tokens."""
        logits = self._model.model(**inputs.rest, logits_to_keep=1).logits[:, -1].float()
        of_option = torch.stack([logits[:, ids].logsumexp(1) for ids in tokens], dim=1)  # (b, options)
        replies = []
        for i, (request, row) in enumerate(zip(batch, of_option.softmax(1).tolist(), strict=True)):
            assert request.options is not None
            likeliest = request.options[row.index(max(row))]
            replies.append(request.stored(self._name, likeliest, True, int(inputs.mask[i].sum()), 1, row))
        return replies

    def _stops(self, request: Request) -> list[str]:
        plain = is_plain(self._model.tokenizer, request.conversation)
        return [stop for stop in (request.stop, PLAIN_TURN if plain else None) if stop is not None]

    def _end_tokens(self) -> torch.Tensor:
        ends = self._model.model.generation_config.eos_token_id
        ids = [self._padding] if ends is None else [self._padding, *(ends if isinstance(ends, list) else [ends])]
        return torch.tensor(ids, device=self._model.device)


def _cut(text: str, stops: list[str]) -> str | None:
    """The text before the first stop; None if there is none in it."""
    found = [text.index(stop) for stop in stops if stop in text]
    return text[: min(found)] if found else None


class _Stop(StoppingCriteria):  # type: ignore[misc]
    """Stops a row once a stop is in what it has written, whatever the tokenizer makes of it."""

    def __init__(self, tokenizer: Any, start: int, stops: list[list[str]]):
        self.tokenizer, self.start, self.stops = tokenizer, start, stops

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        texts = self.tokenizer.batch_decode(input_ids[:, self.start :], skip_special_tokens=True)
        stopped = [any(stop in text for stop in of_row) for text, of_row in zip(texts, self.stops, strict=True)]
        return torch.tensor(stopped, device=input_ids.device)
