"""From panels to files: PNG, SVG and PDF for papers, small PNG for the UI, SVG for pages; the style of every figure.

The same panels give the same bytes: no dates, no global state, whatever the user's matplotlib settings are.
"""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf, PdfPages
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

Panel = Callable[[Axes], None]
"""Draws one panel into axes."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
SUFFIXES = (".png", ".svg", ".pdf")
"""What figures can be written as."""
MAX_SERIES = len(COLOURS)
"""Variants that one panel of curves can show and a reader tell apart."""
MAX_KEYS_INSIDE = 4
"""A legend with more keys stands above its axes."""
ABOVE = "legend above"
"""Group id of such a legend, for which the title makes room."""

# Stand for the page's own colours in an SVG, so that it follows a light or dark theme.
INK, MUTED, _LINE = "#1f2124", "#6f7379", "#dfe1e5"
_THEME = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    _LINE: "var(--line)",
    **{colour: f"var(--series-{place}, {colour})" for place, colour in enumerate(COLOURS)},
}
_PDF_DATES = ("CreationDate", "Creator", "Producer")
_FONT_SIZE = 8.5
PANEL_INCHES = (4.0, 3.0)
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": _FONT_SIZE,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": _FONT_SIZE + 0.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": _FONT_SIZE - 1,
    "legend.handlelength": 1.7,
    "legend.labelspacing": 0.3,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "svg.fonttype": "none",
    "svg.hashsalt": "sae-concord",
    "path.simplify": True,
}


def png(
    panels: Sequence[Panel],
    columns: int = 2,
    dpi: int = 200,
    letters: bool = True,
    inches: tuple[float, float] = PANEL_INCHES,
) -> bytes:
    """One figure of several panels, on white; the same panels give the same bytes.

    Args:
        dpi: dots per inch.
        inches: width and height of a panel.
        letters: whether panels are named A, B, C, ... where there are several.
    """
    with matplotlib.rc_context(_rc()):
        figure = _figure(panels, columns, letters and len(panels) > 1, inches)
        FigureCanvasAgg(figure)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return out.getvalue()


def small_png(panels: Sequence[Panel], columns: int = 2, max_bytes: int = 150_000) -> bytes:
    """The same figure with as many dots as fit into a number of bytes, for where pictures must be small.

    Raises:
        ValueError: if even the coarsest does not fit.
    """
    for dpi in (110, 90, 75, 60, 45):
        encoded = png(panels, columns, dpi)
        if len(encoded) <= max_bytes:
            return encoded
    raise ValueError(f"a figure of {len(panels)} panels does not fit into {max_bytes:,} bytes; draw fewer panels")


def document(panels: Sequence[Panel], suffix: str, columns: int = 2, letters: bool = True) -> bytes:
    """One figure of several panels as a file that stands alone, on white; the same panels give the same bytes.

    Args:
        suffix: one of ``SUFFIXES``. In an SVG text is drawn as outlines, in a PDF its font is embedded (TrueType), so
            that both look the same everywhere.

    Raises:
        ValueError: for another suffix.
    """
    if suffix not in SUFFIXES:
        raise ValueError(f"a figure is written as {', '.join(SUFFIXES)}: got {suffix!r}; choose one of them")
    if suffix == ".png":
        return png(panels, columns, letters=letters)
    canvas = {".svg": FigureCanvasSVG, ".pdf": FigureCanvasPdf}[suffix]
    nothing = {".svg": ("Date", "Creator"), ".pdf": _PDF_DATES}[suffix]
    with matplotlib.rc_context({**_rc(), "svg.fonttype": "path", "pdf.fonttype": 42}):
        figure = _figure(panels, columns, letters and len(panels) > 1)
        canvas(figure)
        out = io.BytesIO()
        figure.savefig(out, format=suffix[1:], facecolor="white", metadata=dict.fromkeys(nothing))
    return out.getvalue()


def pdf_pages(panels: Sequence[Panel]) -> bytes:
    """A page for each panel, as large as the panel: what a paper includes page by page. The same panels give the same
    bytes.
    """
    out = io.BytesIO()
    nothing: dict[str, None] = dict.fromkeys(_PDF_DATES)
    with matplotlib.rc_context({**_rc(), "pdf.fonttype": 42}), PdfPages(out, metadata=nothing) as pages:
        for panel in panels:
            figure = _figure([panel], 1, letters=False)
            FigureCanvasPdf(figure)
            figure.savefig(pages, format="pdf", facecolor="white")
    return out.getvalue()


def svg(panel: Panel, description: str) -> str:
    """One panel as SVG to stand inside a page: as wide as its place, in the page's own colours, light or dark:
    the text colour, ``--muted``, ``--line`` and ``--series-0`` to ``--series-5``.

    Args:
        description: what it shows, for readers who do not see it.
    """
    with matplotlib.rc_context(_rc()):
        figure = _figure([panel], 1, letters=False)
        FigureCanvasSVG(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    # Names of groups would stand twice on a page with two figures, and nothing refers to them.
    text = re.sub(r'<g id="[\w.]+_\d+">', "<g>", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{_escape(description)}" ', 1)
    text = text.replace("'DejaVu Sans'", "system-ui, 'Segoe UI', 'DejaVu Sans'")
    for stand_in, colour in _THEME.items():
        text = text.replace(stand_in, colour)
    return text.strip()


def _rc() -> dict[str, Any]:
    """Our style on top of matplotlib's own defaults, whatever the user's settings are."""
    return {**{k: v for k, v in matplotlib.rcParamsDefault.items() if k not in _NOT_STYLE}, **_STYLE}


_NOT_STYLE = {"backend", "backend_fallback", "interactive", "toolbar", "timezone", "webagg.open_in_browser"}


def _figure(panels: Sequence[Panel], columns: int, letters: bool, inches: tuple[float, float] = PANEL_INCHES) -> Figure:
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(inches[0] * columns, inches[1] * rows), layout="constrained")
    # A place of its own for each panel: a long label of one must not squeeze the others.
    places = figure.subfigures(rows, columns, squeeze=False).ravel()
    for number, panel in enumerate(panels):
        axes = places[number].add_subplot()
        panel(axes)
        _set_title(axes, f"{chr(ord('A') + number)}  " if letters else "")
    return figure


def _set_title(axes: Axes, letter: str) -> None:
    """The title with its letter, above a legend that stands above the axes."""
    legend = axes.get_legend()
    lines = -(-len(legend.get_texts()) // 2) if legend is not None and legend.get_gid() == ABOVE else 0
    axes.set_title(letter + axes.get_title("left"), pad=_STYLE["axes.titlepad"] + (10.2 * lines + 2 if lines else 0))


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
