"""How long work says how far it is: a plain callable, so that the science knows no terminal and no UI."""

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""``progress(done, total, text)``: so much of so much is done; ``text`` says what, in the units that matter."""


def silent(done: int, total: int, text: str) -> None:
    """Progress that nobody watches."""
