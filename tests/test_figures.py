import io

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from sae_core.report.figures import (
    Agreement,
    BinBeside,
    Cloud,
    Contributions,
    CosineCounts,
    Curve,
    DotRow,
    EmptyPanel,
    RangeRow,
    agreement_panel,
    binned,
    cloud_panel,
    contributions_panel,
    curves_panel,
    document,
    dots_panel,
    equal_bins_panel,
    histogram_panel,
    joint_panel,
    pdf_pages,
    png,
    published_panel,
    ranges_panel,
    small_png,
    svg,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def agreement(label="topk", low=0.4, high=0.6):
    return Agreement(label, 0.5, low, high, 0.15, None, np.array([0.45, 0.5, 0.55]))


def frequency_panel():
    x = np.geomspace(1e-5, 0.1, 9)
    y = np.linspace(0.1, 0.9, 9)
    curve = Curve("topk", x, y, y - 0.05, y + 0.05, np.full(9, 0.15))
    return curves_panel(
        [curve], "By frequency", "frequency", "cosine", chance="chance", scale="log", y_limits=(0.0, 1.0)
    )


def test_bins_hold_equal_counts_and_hand_computed_medians():
    x, y = np.array([4.0, 1, 3, 2, 6, 5, 8, 7]), np.array([40.0, 10, 30, 20, 60, 50, 80, 70])
    found = binned(x, y, max_bins=2, per_bin=4)
    assert found.count.tolist() == [4, 4]
    assert found.x.tolist() == [2.5, 6.5]
    assert found.median.tolist() == [25, 65]
    assert found.mean.tolist() == [25, 65]
    assert found.low.tolist() == [17.5, 57.5]
    assert found.high.tolist() == [32.5, 72.5]


def test_few_values_make_one_bin(rng):
    assert binned(rng.random(5), rng.random(5)).count.tolist() == [5]


def test_bins_lose_no_value(rng):
    x, y = rng.random(1003), rng.random(1003)
    found = binned(x, y)
    assert found.count.sum() == 1003
    assert (found.mean * found.count).sum() == pytest.approx(y.sum())


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros(2), np.zeros(3), "as many x as y.* got 2 and 3"),
        (np.zeros(0), np.zeros(0), "at least one: got 0 and 0"),
        (np.array([1.0, np.nan]), np.zeros(2), "finite values"),
    ],
)
def test_bins_refuse_what_they_cannot_place(x, y, message):
    with pytest.raises(ValueError, match=message):
        binned(x, y)


def test_the_same_panels_give_the_same_bytes():
    panels = [agreement_panel([agreement()]), frequency_panel()]
    assert png(panels) == png(panels)
    assert svg(frequency_panel(), "x") == svg(frequency_panel(), "x")


def test_settings_of_the_user_change_nothing():
    before = png([frequency_panel()], dpi=50)
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9, "savefig.transparent": True}):
        assert png([frequency_panel()], dpi=50) == before


def test_drawing_leaves_the_settings_of_the_user_alone():
    before = dict(matplotlib.rcParams)
    png([frequency_panel()], dpi=50)
    assert dict(matplotlib.rcParams) == before


def test_a_figure_is_as_large_as_its_panels_and_its_resolution():
    image = Image.open(io.BytesIO(png([frequency_panel()] * 3, columns=2, dpi=50)))
    assert image.size == (400, 300)


def test_a_small_figure_fits_and_is_refused_where_it_cannot():
    panels = [frequency_panel()]
    assert len(small_png(panels, max_bytes=20_000)) <= 20_000
    with pytest.raises(ValueError, match="does not fit into 100 bytes"):
        small_png(panels, max_bytes=100)


def test_an_svg_has_the_colours_of_the_page_a_description_and_no_size_of_its_own():
    text = svg(agreement_panel([agreement("a < b")]), 'what "it" shows & means')
    head = text[: text.index(">")]
    assert head.startswith("<svg ")
    assert 'aria-label="what &quot;it&quot; shows &amp; means"' in head
    assert "viewBox" in head
    assert "width=" not in head
    assert "currentColor" in text
    assert "var(--muted)" in text
    assert "var(--series-0, #0072b2)" in text
    assert "a &lt; b" in text
    assert "<metadata" not in text


def test_two_svgs_on_a_page_share_no_group_ids():
    assert '<g id="' not in svg(frequency_panel(), "x")


def test_an_interval_that_does_not_exist_is_not_drawn():
    with_interval = svg(agreement_panel([agreement()]), "x")
    without = svg(agreement_panel([agreement(low=None, high=None)]), "x")
    assert with_interval.count("stroke-width: 2.2") == without.count("stroke-width: 2.2") + 2  # it and its key
    assert "all features, CI" in with_interval
    assert "CI" not in without


def test_many_variants_and_an_empty_histogram_can_be_drawn():
    rows = [agreement(f"variant {i}") for i in range(30)]
    empty = CosineCounts("none", np.linspace(0, 1, 11), np.zeros(10), np.zeros(10), 0.3)
    assert png([agreement_panel(rows), histogram_panel([empty])], dpi=50).startswith(b"\x89PNG")


def test_an_empty_panel_says_why():
    assert "no feature fired" in svg(EmptyPanel("Title", "no feature fired"), "x")


NAMES = ["topk-d16384-k32", "standard-d16384-l1_0.08", "gated-d16384-l1_0.04", "topk-d16384-k64", "topk-k9", "topk-k8"]


def contributions(n, never=True):
    edges, shares = np.geomspace(1e-7, 0.1, 6), np.array([0.05, 0.15, 0.5, 0.2, 0.05])
    gone = (0.01, 0.05) if never else None
    return [Contributions(NAMES[i], edges, shares * (0.9 - 0.1 * i), shares, gone, i) for i in range(n)]


def over_training(n, first=0.0):
    x = np.array([first, 1e6, 1e7, 1e8])
    return curves_panel(
        [Curve(NAMES[i], x, np.array([0.15, 0.2, 0.4, 0.7]), chance=np.full(4, 0.15), colour=i) for i in range(n)],
        "Over training", "tokens", "PW-MCC", chance="random directions", scale="log",
    )  # fmt: skip


def shares(n, spread=()):
    rows = [DotRow(NAMES[i], (0.6, 0.5, 0.4), "", 0.02, i, spread) for i in range(n)]
    return dots_panel(rows, ("decoder", "joint", "both"), "Shared", "share", chance="chance", x_percent=True)


def cloud(**changes):
    rng = np.random.default_rng(1)
    x, bins = np.sort(rng.random(60)), np.linspace(0.1, 0.9, 5)
    values = {"bin_cosine": bins, "bin_similarity": bins, "bin_sd": np.full(5, 0.1), "bin_decoy": np.full(5, 0.2)}
    return Cloud(x, x, 0.2 * x, **(values | changes))


def beside(value=0.4):
    edges = [0.0, 0.065, 0.113, 0.195, 0.336, 0.58, 1.0]
    theirs = [None, 1.71, 2.19, 3.27, 4.12, 8.28]
    return [
        BinBeside(low, high, rating, 13640, None if rating is None else value, 0.1, 0.2)
        for low, high, rating in zip(edges[:-1], edges[1:], theirs, strict=True)
    ]


def ranges(n):
    rows = [RangeRow(f"{NAMES[i]}, embedded", 0.1 * i - 0.2, 0.1 * i - 0.3, 0.1 * i, 0.1 * i) for i in range(n)]
    return ranges_panel(rows, "Rise", "rho", ("given frequency", "raw"), 0.0, 0.3)


def panels_of(n):
    rng = np.random.default_rng(0)
    cosine = rng.random(500)
    return {
        "contributions": contributions_panel(contributions(n)),
        "equal": equal_bins_panel(contributions(n)),
        "training": over_training(n),
        "dots": shares(n),
        "spread": shares(n, (0.01, None, 0.02)),
        "joint": joint_panel(cosine, cosine - 0.3 * rng.random(500)),
        "cloud": cloud_panel(cloud(ceiling=0.7, chance_cosine=0.2), "Explanations", "similarity"),
        "published": published_panel(beside(), "similarity", same_scale=False),
        "ranges": ranges(n),
    }


def drawn(panel):
    """Axes as they are drawn, with everything in its place."""
    figure = Figure(figsize=(4, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    panel(axes)
    figure.canvas.draw()
    return axes


@pytest.mark.parametrize("n", [1, 2, 6])
@pytest.mark.parametrize(
    "name", ["contributions", "equal", "training", "dots", "spread", "joint", "cloud", "published", "ranges"]
)
def test_labels_of_an_axis_do_not_run_into_each_other(name, n):
    axes = drawn(panels_of(n)[name])
    for axis in (axes.xaxis, axes.yaxis):
        boxes = [label.get_window_extent() for label in axis.get_ticklabels() if label.get_text()]
        low, high = axes.get_window_extent().extents[[0, 2]] if axis is axes.xaxis else (-np.inf, np.inf)
        boxes = [box for box in boxes if low - 1 <= (box.x0 + box.x1) / 2 <= high + 1]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize("name", ["contributions", "equal", "training"])
def test_a_legend_of_many_variants_stands_above_the_axes(name):
    few, many = (drawn(panels_of(n)[name]) for n in (2, 6))
    assert few.get_legend().get_window_extent().y0 < few.get_window_extent().y1
    assert many.get_legend().get_window_extent().y0 >= many.get_window_extent().y1 - 1


def test_bars_of_contributions_are_as_high_as_the_contributions():
    (row,) = contributions(1)
    heights = [bar.get_height() for bar in drawn(equal_bins_panel([row])).patches]
    assert heights == pytest.approx([*row.values, row.never[0]])


def test_nothing_that_never_fired_has_no_place_on_the_axis():
    with_never, without = (drawn(contributions_panel(contributions(1, never))) for never in (True, False))
    assert "never" in [label.get_text() for label in with_never.get_xticklabels()]
    assert "never" not in [label.get_text() for label in without.get_xticklabels()]


def test_step_zero_stands_left_of_all_others_on_a_logarithmic_axis():
    axes = drawn(over_training(1))
    labels = {label.get_text(): place for label, place in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True)}
    assert axes.get_xlim()[0] < labels["0"] < 1e6
    hollow = [line for line in axes.lines if line.get_fillstyle() == "none"]
    assert [line.get_xydata().tolist() for line in hollow] == [[[labels["0"], 0.15]]]


def test_without_step_zero_the_axis_is_not_broken():
    labels = [label.get_text() for label in drawn(over_training(1, first=1e5)).get_xticklabels()]
    assert "0" not in labels


def test_curves_of_step_zero_alone_can_be_drawn():
    one = Curve("topk", np.zeros(1), np.full(1, 0.15), np.full(1, 0.1), np.full(1, 0.2), np.full(1, 0.15))
    axes = drawn(curves_panel([one], "title", "x", "y", scale="log"))
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0"]


def test_a_band_without_ends_is_not_drawn():
    nothing = np.full(3, np.nan)
    x = np.array([1.0, 2, 3])
    assert "nan" not in svg(curves_panel([Curve("two seeds", x, x, nothing, nothing)], "t", "x", "y"), "x").lower()


def test_a_value_that_is_not_known_is_not_drawn_and_the_line_says_why():
    rows = [DotRow("a", (0.8, None, None), "joint: no encoder"), DotRow("b", (0.6, 0.5, None), colour=1)]
    axes = drawn(dots_panel(rows, ("decoder", "joint", "both"), "Shared", "share"))
    assert [text.get_text() for text in axes.texts] == ["joint: no encoder"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["decoder", "joint"]
    points = [line.get_xdata()[0] for line in axes.lines if line.get_marker() in ("o", "D", "^")]
    assert points == [0.8, 0.6, 0.5]


def test_a_long_reason_stays_inside_the_figure():
    rows = [DotRow("a", (0.8, None), "joint: no encoder for " + ", ".join(f"seed {i}" for i in range(30)))]
    axes = drawn(dots_panel(rows, ("decoder", "joint"), "Shared", "share", x_percent=True))
    box, figure = axes.texts[0].get_window_extent(), axes.figure.bbox
    assert figure.x0 <= box.x0
    assert box.x1 <= figure.x1


def test_published_ratings_have_an_axis_of_their_own_unless_ours_are_ratings_too():
    own, shared = (drawn(published_panel(beside(), "y", same_scale=same)) for same in (False, True))
    assert [len(axes.figure.axes) for axes in (own, shared)] == [2, 1]
    ratings = [line for line in own.figure.axes[1].lines if line.get_marker() == "D"]
    assert ratings[0].get_ydata().tolist()[1:] == [1.71, 2.19, 3.27, 4.12, 8.28]
    assert [text.get_text() for text in own.texts] == ["13,640"] * 6
    assert own.get_ylim()[1] < 1


def test_bins_stand_between_their_borders():
    axes = drawn(published_panel(beside(), "y", same_scale=False))
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["0", ".065", ".113", ".195", ".336", ".58", "1"]
    assert axes.get_xticks().tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5]


def test_lines_that_have_no_place_are_not_drawn():
    with_both, without = (
        drawn(cloud_panel(cloud(**c), "t", "y")) for c in ({"ceiling": 0.7, "chance_cosine": 0.2}, {})
    )
    keys = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in (with_both, without)]
    assert set(keys[0]) - set(keys[1]) == {"a feature with itself", "cosine by chance"}


def test_a_value_without_an_interval_is_a_point_and_the_legend_promises_none():
    row = RangeRow("words", 0.8, other=0.5)
    axes = drawn(ranges_panel([row], "t", "AUC", ("matched", "shuffled"), 0.5, 0.5))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["matched", "shuffled"]
    assert [line.get_xdata()[0] for line in axes.lines if line.get_marker() in ("o", "D")] == [0.8, 0.5]
    assert axes.get_xlim()[0] < 0 < 1 < axes.get_xlim()[1]


def test_a_null_without_a_histogram_is_marked_at_its_mean():
    edges = np.linspace(0, 1, 11)
    axes = drawn(histogram_panel([CosineCounts("a", edges, np.ones(10), None, 0.25)]))
    assert [line.get_xdata()[0] for line in axes.lines] == [0.25]
    assert "mean by chance" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_a_flagged_variant_says_so_in_the_figure_itself():
    flagged = Agreement("topk", 0.9, None, None, 0.15, None, np.array([0.9]), "(seeds not independent)")
    labels = [label.get_text() for label in drawn(agreement_panel([flagged])).get_yticklabels()]
    assert labels == ["topk\n(seeds not independent)"]


@pytest.mark.parametrize(("suffix", "begins"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF-")])
def test_a_document_stands_alone_in_every_format_and_is_always_the_same(suffix, begins):
    panels = [shares(2), over_training(2)]
    made = document(panels, suffix)
    assert made.startswith(begins)
    assert made == document(panels, suffix)
    if suffix == ".svg":
        assert b"var(--" not in made
        assert b"<text" not in made  # outlines: the same with or without the font


def test_a_document_of_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"written as .png, .svg, .pdf: got '.jpg'; choose one"):
        document([shares(1)], ".jpg")


def test_a_pdf_has_a_page_for_each_panel():
    made = pdf_pages([shares(1), over_training(1)])
    assert made == pdf_pages([shares(1), over_training(1)])
    assert made.count(b"/Type /Page ") == 2
