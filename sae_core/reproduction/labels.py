"""What points are called in tables and figures, and where they stand on an axis.

Part of *reproduction*.
"""

from collections.abc import Sequence

from sae_core.config import Config
from sae_core.synthetic.results import PointSummary
from sae_core.synthetic_config import GroupConfig, Independent, PointConfig, UniformFrequency

ARCHITECTURES = {
    "topk": "TopK",
    "standard": "Standard",
    "batch_topk": "BatchTopK",
    "gated": "Gated",
    "jumprelu": "JumpReLU",
    "p_anneal": "p-anneal",
    "matryoshka_batch_topk": "Matryoshka",
    "standard_april": "Standard April",
}
"""Names of the architectures; their order is that of their colours."""

_AXES = {
    "k": "active features of the SAE (k)",
    "d_sae": "features of the SAE",
    "d_in": "width of the data (m)",
    "d_gt": "true features",
    "l1_coefficient": "weight of the L1 penalty",
    "noise": "length of the noise",
    "strength": "strength of the correlation",
    "exponent": "Zipf's exponent",
}
_SPARSITY = {"k": "k", "l1_coefficient": "L1", "target_l0": "target L0"}


def architecture(point: PointSummary) -> str:
    """The name of a point's architecture."""
    return ARCHITECTURES[point.config.variant.architecture]


def facts(config: PointConfig) -> dict[str, str]:
    """What sets a point apart from others, by what it is: ``{"m": "m 16", "noise": "noise 0.1", ...}``."""
    data, variant = config.data, config.variant
    found = {"m": f"m {data.d_in}", "d_gt": f"d_gt {data.d_gt}", "true k": f"true k {data.k}"}
    found["d_sae"] = f"d_sae {variant.d_sae}"
    for field, name in _SPARSITY.items():
        if getattr(variant, field, 0):
            found[f"{variant.architecture} {field}"] = f"{name} {getattr(variant, field):g}"
    found |= {
        "dictionary": data.dictionary,
        "support": "exactly k" if data.support == "exactly" else "k on average",
        **_kind("structure", data.structure),
        **_kind("frequency", data.frequency),
        "magnitude": data.magnitude.replace("_", "-"),
        "bias": f"bias {data.bias:g}",
        "noise": f"noise {data.noise:g}",
        "recipe": config.recipe_name,
        "seeds": f"{len(config.seeds)} seeds",
    }
    return found


def _kind(name: str, part: Config) -> dict[str, str]:
    """What kind a structure or frequency is, and each of its numbers."""
    found = part.model_dump(exclude_none=True)
    kind = str(found.pop("kind"))
    numbers = {f"{kind} {field}": f"{field.replace('_', ' ')} {value:g}" for field, value in found.items()}
    return {name: kind.replace("_", "-"), **numbers}


def label(point: PointSummary, among: Sequence[PointSummary]) -> str:
    """The architecture of a point, and what differs among the points that stand beside it."""
    own, all_facts = facts(point.config), [facts(other.config) for other in among]
    differ = [text for name, text in own.items() if len({other[name] for other in all_facts if name in other}) > 1]
    return ", ".join([architecture(point), *differ])


def setting(points: Sequence[PointSummary]) -> str:
    """The sizes of points in a few words; a number that differs as the smallest and the largest."""
    configs = [point.config for point in points]
    parts = [
        _range("m", [config.data.d_in for config in configs]),
        _range("d_gt", [config.data.d_gt for config in configs]),
        _range("d_sae", [config.variant.d_sae for config in configs]),
        _range("true k", [config.data.k for config in configs]),
    ]
    given = [config.variant.k for config in configs if hasattr(config.variant, "k")]
    if given and set(given) != {config.data.k for config in configs}:
        parts.append(_range("k", given))
    parts.append("recipe " + ", ".join(dict.fromkeys(config.recipe_name for config in configs)))
    parts.append(_range("", [len(config.seeds) for config in configs]) + " seeds")
    return ", ".join(parts)


def _range(name: str, values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{name} {low:,}".strip() if low == high else f"{name} {low:,} to {high:,}".strip()


def x_value(config: PointConfig, x: str) -> float:
    """Where a point stands on the axis that ``GroupConfig.x`` names.

    A number of the variant if it has one of that name, else of the data. No structure is a correlation of strength 0,
    equal frequencies are Zipf's law with exponent 0.

    Raises:
        ValueError: if the point has no such number.
    """
    data, variant = config.data, config.variant
    for place in (variant, data, data.structure, data.frequency):
        found = getattr(place, x, None)
        if isinstance(found, int | float):
            return float(found)
    if (x == "strength" and isinstance(data.structure, Independent)) or (
        x == "exponent" and isinstance(data.frequency, UniformFrequency)
    ):
        return 0.0
    raise ValueError(f"point {config.key} has no number {x!r}; set x of its group to one that all its points have")


def x_label(x: str) -> str:
    """What such an axis is called."""
    return _AXES.get(x, x.replace("_", " "))


def true_value(config: PointConfig, x: str) -> float | None:
    """What the truth has where the axis is a size of the SAE; None on other axes."""
    return {"k": float(config.data.k), "d_sae": float(config.data.d_gt)}.get(x)


def titled(group: GroupConfig, title: str) -> str:
    """The title of a panel, with the name of its group where it has one."""
    return title if group.name == "all" else f"{group.name}: {title}"
