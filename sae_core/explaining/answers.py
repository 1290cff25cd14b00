"""Explanations read out of replies. What cannot be read is missing, with a reason; it is never repaired by guessing."""

import re
import unicodedata

from sae_core.chat.messages import Conversation, Missing, Reply

MARK = "[EXPLANATION]:"
EMPTY = Missing("the explanation is empty")
UNFINISHED = Missing("the model did not come to an end")
REPEATED = Missing("the model repeated the prompt")
NO_MARK = Missing(f"the reply has no {MARK}")
NO_LETTERS = Missing("the explanation has no letters")
OTHER_LANGUAGE = Missing("the explanation is not in English")

_AROUND = " \t\"'`*_.“”‘’"
_PROMPT_LINE = re.compile(r"(words|category|example \d+|activations):|\[explanation\]|### ", re.IGNORECASE)
_LONG_WORDS = 8
"""Words of an explanation whose language can be told by its function words."""
_SAME_LANGUAGE = 3
"""Distinct function words of another language that tell it."""
_ENGLISH = (
    "the of and to that with for or which from by this these is are when where like such often before after between "
    "about their its followed following used related word words token tokens text phrases names"
)
# Without words that English has too: "in", "die", "as", "a", "on", "me", "no", "do", "of".
_OTHERS = (
    "el la los las del que para una con por como este esta son palabras sobre entre cuando",
    "le la les des du et une dans pour avec sur qui que est sont par ces mots ou aux",
    "der das den dem und ein eine von mit für ist auf wörter oder nach bei im zu sich wird",
    "il lo la gli della delle di che una con per sono parole nel tra come questo degli",
    "os uma para com que por são palavras em dos das ou sobre entre quando não ao",
    "de het een van en met voor zijn woorden die dat op bij naar wordt deze",
    "och att det som en ett för med av till är på ord eller inte den",
)
_QUOTED = re.compile(r"""["“«][^"”»]*["”»]|(?<!\w)['‘][^'’]*['’]""")


def read_explanation(reply: Reply, prompt: Conversation) -> str | Missing:
    """The explanation in a reply to a conversation that asks for one after ``[EXPLANATION]:``: the first line after the
    last such mark."""
    _, mark, rest = reply.text.rpartition(MARK)
    if not mark:
        return NO_MARK if reply.finished else UNFINISHED
    line, answer = _first_line(rest)
    if not line:
        return EMPTY if reply.finished else UNFINISHED
    if "\n" not in rest.lstrip() and not reply.finished:
        return UNFINISHED
    solved = {_first_line(turn.content.rpartition(MARK)[2])[1].casefold() for turn in prompt if turn.role != "user"}
    instructed = prompt[0].content.casefold()
    if answer.casefold() in solved or (len(answer.split()) >= _LONG_WORDS and answer.casefold() in instructed):
        return REPEATED
    return _checked(answer)


def read_category(reply: Reply) -> str | Missing:
    """The explanation in a reply to a list of words: its first line. (" animals\\nWords:" gives "animals")"""
    line, answer = _first_line(reply.text.removeprefix("Category:"))
    if not line:
        return EMPTY
    if "\n" not in reply.text.lstrip() and not reply.finished:
        return UNFINISHED
    return _checked(answer)


def _first_line(text: str) -> tuple[str, str]:
    """The first line with anything in it, and the same without quotation marks, emphasis and full stop."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line, line.strip(_AROUND)


def _checked(answer: str) -> str | Missing:
    if not any(character.isalpha() for character in answer):
        return NO_LETTERS if answer else EMPTY
    if _PROMPT_LINE.match(answer):
        return REPEATED
    return OTHER_LANGUAGE if is_other_language(answer) else answer


def is_other_language(text: str) -> bool:
    """Whether a text is surely not English: most letters are not Latin, or among eight words or more there are
    function words of another European language and none of English. Short texts are taken for English."""
    text = _QUOTED.sub(" ", text)  # "el", 'la' and «der» are what a feature may be about
    letters = [character for character in text if character.isalpha()]
    latin = sum(unicodedata.name(character, "").startswith("LATIN") for character in letters)
    if 2 * latin < len(letters):
        return True
    words = re.findall(r"\w+", text.casefold())
    if len(words) < _LONG_WORDS or not set(_ENGLISH.split()).isdisjoint(words):
        return False
    return any(len(set(language.split()).intersection(words)) >= _SAME_LANGUAGE for language in _OTHERS)
