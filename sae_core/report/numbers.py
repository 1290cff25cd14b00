"""Numbers as people read them, and places in lists; part of *report*."""

Value = str | int | float | None
MISSING = "–"
"""What stands in the place of a missing value."""


def number(value: Value, digits: int = 3, sign: bool = False) -> str:
    """A number with so many digits after the point; a dash where there is none."""
    if value is None or isinstance(value, str):
        return MISSING
    text = f"{value:+,.{digits}f}" if sign else f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def percent(value: Value, digits: int = 1) -> str:
    """A share in percent; a dash where there is none."""
    return MISSING if value is None or isinstance(value, str) else f"{number(100 * value, digits)} %"


def per_million(frequency: float) -> str:
    """A share of tokens, as tokens per million."""
    value = 1e6 * frequency
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def evenly_spaced(n: int, wanted: int) -> list[int]:
    """At most ``wanted`` (at least 2) places among n, first and last included, evenly spaced."""
    return sorted({round(i * (n - 1) / (wanted - 1)) for i in range(wanted)}) if n else []


def with_interval(value: Value, low: Value, high: Value, digits: int = 3) -> str:
    """``0.550 [0.530, 0.570]``, or with a dash in the brackets where there is no interval."""
    if value is None:
        return MISSING
    ends = MISSING if low is None or high is None else f"{number(low, digits)}, {number(high, digits)}"
    return f"{number(value, digits)} [{ends}]"
