"""Chromium on the UI, and the illustrated page that a walk through it makes."""

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, sync_playwright

_SIZE = {"width": 1400, "height": 900}
_TIMEOUT_MS = 60_000
_MAX_BYTES = 200_000


@dataclass
class Browser:
    """One tab."""

    page: Page
    url: str
    """Of the UI."""
    foreign: list[str] = field(default_factory=list)
    """Addresses off this machine that a page asked for."""

    def open(self, path: str, *expected: str) -> None:
        """A page of the UI, when all of these texts are to be seen on it."""
        self.page.goto(self.url + path)
        self.see(*expected)

    def see(self, *expected: str) -> None:
        """Wait until each of these texts is visible."""
        for text in expected:
            self.text(text).first.wait_for()

    def text(self, text: str) -> Locator:
        """What shows this text."""
        return self.page.get_by_text(text).filter(visible=True)

    def press(self, button: str) -> None:
        """Click on the first button whose name begins like this."""
        self.page.get_by_role("button", name=button).filter(visible=True).first.click()

    def screenshot(self) -> bytes:
        """The tab, when pictures and animations have settled; small enough for a repository."""
        self.page.mouse.move(700, 899)
        self.page.wait_for_timeout(1200)
        return _small(self.page.screenshot(animations="disabled"))


@contextmanager
def browser(url: str, login: tuple[str, str] | None = None) -> Iterator[Browser]:
    """A tab in Debian's Chromium; skips where there is none.

    Args:
        login: name and password, for when a page asks for them.
    """
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        credentials = {"username": login[0], "password": login[1]} if login else None
        page = started.new_page(
            viewport=_SIZE, color_scheme="light", timezone_id="UTC", locale="en-GB", http_credentials=credentials
        )
        page.set_default_timeout(_TIMEOUT_MS)
        tab = Browser(page, url)
        local = ("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:")
        page.on("request", lambda request: None if request.url.startswith(local) else tab.foreign.append(request.url))
        page.on("websocket", lambda socket: None if socket.url.startswith(local) else tab.foreign.append(socket.url))
        try:
            yield tab
        finally:
            started.close()


def _small(png: bytes) -> bytes:
    """With fewer colours, if it is large; flat pages look the same."""
    for colours in (256, 128, 64):
        picture, packed = Image.open(io.BytesIO(png)).convert("RGB"), io.BytesIO()
        picture.quantize(colours, dither=Image.Dither.NONE).save(packed, "PNG", optimize=True)
        if packed.tell() <= _MAX_BYTES:
            break
    return packed.getvalue()


class Walkthrough:
    """Steps with their pictures, as a Markdown page."""

    def __init__(self, tab: Browser):
        """With nothing on it."""
        self.tab = tab
        self.lines: list[str] = []
        self.pictures: dict[str, bytes] = {}

    def chapter(self, text: str) -> None:
        """A step: its title is the first line."""
        title, _, rest = text.partition("\n")
        self.lines += [f"## {title.rstrip('.')}", "", *(line.strip() for line in rest.strip().splitlines()), ""]

    def picture(self, name: str, caption: str) -> None:
        """What the tab shows now."""
        file = f"{len(self.pictures) + 1:02d}_{name}.png"
        self.pictures[file] = self.tab.screenshot()
        self.lines += [f"![{caption}](walkthrough/{file})", ""]

    def write(self, docs: Path, head: str) -> None:
        """``walkthrough.md`` and the pictures, in place of those of an earlier walk."""
        shutil.rmtree(docs / "walkthrough", ignore_errors=True)
        (docs / "walkthrough").mkdir(parents=True)
        for file, png in self.pictures.items():
            (docs / "walkthrough" / file).write_bytes(png)
        (docs / "walkthrough.md").write_text("\n".join([head, *self.lines]).rstrip() + "\n")
