"""Progress for someone who watches a terminal, or reads a log file later."""

import sys
import time
from typing import Any

from tqdm import tqdm

_LOG_EVERY_S = 15.0


class TerminalProgress:
    """A progress bar on a terminal; where there is none (CI, a log file), a line every few seconds."""

    def __init__(self, title: str):
        self.title, self.last = title, time.monotonic()
        self.bar: tqdm[Any] | None = None
        self.is_terminal = sys.stderr.isatty()

    def __call__(self, done: int, total: int, text: str) -> None:
        """Show that ``done`` of ``total`` is done."""
        if not self.is_terminal:
            now = time.monotonic()
            if now - self.last >= _LOG_EVERY_S or done in (0, total):
                self.last = now
                print(f"  {self.title}: {done / max(total, 1):4.0%}  {text}", file=sys.stderr, flush=True)
            return
        if self.bar is None or self.bar.total != total:
            if self.bar is not None:
                self.bar.close()
            self.bar = tqdm(total=total, desc=f"  {self.title}", leave=False, unit_scale=True, mininterval=0.2)
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update(done - self.bar.n)
        if done >= total:
            self.bar.close()
            self.bar = None
