"""What all settings and results are made of."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=80)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Automation = Literal["manual", "when_stale", "eager"]
"""What Dagster's daemon makes by itself. ``manual``: nothing. ``when_stale``: once the report of a study was made,
all that is out of date or new in it (new weights, a new seed or variant, changed settings or code). ``eager``: the
same, the first time too."""
Owner = Annotated[str, Field(pattern=r"^(team:[A-Za-z0-9_]+|[^@\s]+@[^@\s]+\.[^@\s]+)$")]
"""An e-mail address, or ``team:<name>``."""


class Config(BaseModel):
    """A frozen set of settings; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Result(BaseModel):
    """A frozen set of numbers that a stage found, written as JSON; a missing value is None, never NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
