"""Sweeps in a study file: an entry with a list of values for a setting stands for several entries.

``{architecture: topk, d_sae: 1024, k: {sweep: [8, 16]}}`` is read as two variants. Nothing behind the reading knows
sweeps.
"""

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, core_schema

KEY = "sweep"


class Sweeps:
    """Annotation of a list of configs whose entries may hold sweeps.

    An error names the entry as it stands in the file, and the setting.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(_read, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        found = handler(schema)
        for choice in found["items"]["oneOf"]:
            properties = handler.resolve_ref_schema(choice).get("properties", {})
            for name, one in properties.items():
                if "const" not in one and not _takes_a_sweep(one):
                    properties[name] = _one_or_a_sweep(one)
        return found


def _read(value: Any, validate: Callable[[Any], Any]) -> Any:
    """Validate the entries that a list stands for; errors are moved back to the places in the list as given."""
    if not isinstance(value, list):
        return validate(value)
    entries, places = [], []
    for place, entry in enumerate(value):
        expanded = expand(entry, place)
        entries += expanded
        places += [place] * len(expanded)
    try:
        return validate(entries)
    except ValidationError as error:
        raise _moved(error, places) from None


def expand(entry: Any, place: int = 0) -> list[Any]:
    """The entries that one stands for: one for each combination of its sweeps' values, the last sweep fastest.

    Raises:
        ValidationError: if a sweep is not a list of values; the location is (place, setting).
    """
    if not isinstance(entry, Mapping):
        return [entry]
    sweeps = {name: value for name, value in entry.items() if isinstance(value, Mapping) and KEY in value}
    wrong = [_problem(place, name, value) for name, value in sweeps.items() if not _is_sweep(value)]
    if wrong:
        raise ValidationError.from_exception_data("sweep", wrong)
    combinations = product(*(value[KEY] for value in sweeps.values()))
    return [{**entry, **dict(zip(sweeps, values, strict=True))} for values in combinations]


def _is_sweep(value: Mapping[str, Any]) -> bool:
    values = value[KEY]
    return set(value) == {KEY} and isinstance(values, list) and bool(values) and not any(map(_is_nested, values))


def _is_nested(value: Any) -> bool:
    return isinstance(value, (Mapping, list))


def _problem(place: int, name: str, value: Any) -> InitErrorDetails:
    # A known type of error, not one of our own: Dagster makes the errors anew, with the line of the file.
    error = ValueError(f"a sweep is {{sweep: [value, ...]}} with at least one value: got {value}; name those to try")
    return InitErrorDetails(type="value_error", loc=(place, name), input=value, ctx={"error": error})


def _moved(error: ValidationError, places: list[int]) -> ValidationError:
    """The same errors, each once, at the entries of the list as given."""
    found: dict[str, InitErrorDetails] = {}
    for one in error.errors(include_url=False):
        location = one["loc"]
        if location and isinstance(location[0], int):
            location = (places[location[0]], *location[1:])
        details = InitErrorDetails(type=one["type"], loc=location, input=one["input"], ctx=one.get("ctx", {}))
        found.setdefault(f"{location} {one['msg']}", details)
    return ValidationError.from_exception_data(error.title, list(found.values()))


def _takes_a_sweep(schema: Mapping[str, Any]) -> bool:
    return any(KEY in choice.get("properties", {}) for choice in schema.get("anyOf", []))


def _one_or_a_sweep(schema: Mapping[str, Any]) -> dict[str, Any]:
    told = {name: schema[name] for name in ("title", "description", "default") if name in schema}
    one = {name: value for name, value in schema.items() if name not in told}
    sweep = {
        "type": "object",
        "properties": {KEY: {"type": "array", "items": one, "minItems": 1}},
        "required": [KEY],
        "additionalProperties": False,
    }
    return {**told, "anyOf": [one, sweep]}
