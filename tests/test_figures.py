import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from sae_core.figures import (
    Agreement,
    CosineCounts,
    Curve,
    agreement_panel,
    binned,
    curves_panel,
    empty_panel,
    histogram_panel,
    png,
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
        [curve], "By frequency", "frequency", "cosine", chance="chance", log_x=True, y_limits=(0.0, 1.0)
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
    assert with_interval.count("stroke-width: 2.2") == without.count("stroke-width: 2.2") + 1


def test_many_variants_and_an_empty_histogram_can_be_drawn():
    rows = [agreement(f"variant {i}") for i in range(30)]
    empty = CosineCounts("none", np.linspace(0, 1, 11), np.zeros(10), np.zeros(10))
    assert png([agreement_panel(rows), histogram_panel([empty])], dpi=50).startswith(b"\x89PNG")


def test_an_empty_panel_says_why():
    assert "no feature fired" in svg(empty_panel("Title", "no feature fired"), "x")
