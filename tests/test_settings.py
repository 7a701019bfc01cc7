"""Settings of runs: checked where they are made, described beside their fields, and set by words."""

from typing import Annotated

import pytest
from pydantic import Field

from convbert import InputError
from convbert.finetuning.recipes import FinetuningPlan
from convbert.util.settings import Settings, describe, parse_settings, settings


@settings
class Plan(Settings):
    rate: Annotated[float, Field(gt=0)] = 0.5
    """How fast."""
    steps: int | None = None
    """How long;
    null without end."""

    def __post_init__(self) -> None:
        if self.steps == 13:
            raise InputError("steps: 13 brings bad luck")


def test_a_field_is_checked_and_named():
    assert Plan(rate=2) == Plan().override(rate=2.0) == Plan.from_dict({"rate": 2.0, "steps": None})
    for wrong in (
        {"rate": -1},
        {"rate": True},
        {"rate": float("nan")},
        {"steps": 1.5},
        {"steps": 13},
        {"stepz": 1},
    ):
        (name,) = wrong
        for make in (Plan, Plan().override):
            with pytest.raises(InputError, match=name):
                make(**wrong)
        with pytest.raises(InputError, match=rf"plan\.json: .*{name}"):
            Plan.from_dict(wrong, "plan.json")
    with pytest.raises(InputError, match=r"plan\.json"):
        Plan.from_dict([], "plan.json")


def test_help_has_what_stands_at_the_field():
    assert list(describe(Plan)) == [("rate=0.5", "How fast."), ("steps=null", "How long; null without end.")]
    assert all(text for _, text in describe(FinetuningPlan))


def test_words_become_values():
    fields = {"rate": 0.5, "steps": None, "mode": "auto", "name": "x"}
    words = ["rate=1", "steps=[2]", "mode=false", "name=two words"]
    assert parse_settings(words, fields) == {"rate": 1.0, "steps": [2], "mode": False, "name": "two words"}
    for word, named in (("rate", "NAME=VALUE"), ("=1", "NAME=VALUE"), ("rte=1", "rate"), ("name=1", "str")):
        with pytest.raises(InputError, match=named):
            parse_settings([word], fields)
    with pytest.raises(InputError, match="twice"):
        parse_settings(["rate=1", "rate=2"], fields)
    with pytest.raises(InputError, match="twice"):
        parse_settings(["rate=1"], fields, given=["rate"])
