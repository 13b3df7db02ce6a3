"""Options are one flat class for users, groups of fields for functions, and one TypedDict for type checkers."""

from __future__ import annotations

from dataclasses import fields
from typing import get_type_hints

import pytest

from mapsto.errors import UsageError
from mapsto.options import (
    CHOICES,
    DataOptions,
    ModelOptions,
    ObjectiveOptions,
    OptimizationOptions,
    OptionFields,
    Options,
    RunOptions,
)

GROUPS = (OptimizationOptions, ModelOptions, DataOptions, ObjectiveOptions, RunOptions)


def test_the_groups_share_out_all_fields() -> None:
    names = [entry.name for group in GROUPS for entry in fields(group)]
    assert names == [entry.name for entry in fields(Options)] and len(names) == len(set(names))
    assert all(entry.metadata["help"] for entry in fields(Options)), "every option has a help text"
    assert set(CHOICES) <= set(names)


def test_the_keywords_for_type_checkers_are_the_fields() -> None:
    assert get_type_hints(OptionFields) == get_type_hints(Options)


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_stands_alone_and_checks_its_own_fields(group: type) -> None:
    assert isinstance(Options(), group)
    group()
    wrong = {"steps": -1, "layers": 0, "hold_out": 2, "hide": 1.5, "workers": -1}
    (name,) = [name for name in wrong if name in {entry.name for entry in fields(group)}]
    for kind in (group, Options):
        with pytest.raises(UsageError, match=name):
            kind(**{name: wrong[name]})


def test_the_flags_give_the_options_back() -> None:
    options = Options(steps=3, average=False, balance=True, augment="crop+mixup", bad_rows="skip")
    assert options.flags() == [
        "--steps", "3", "--no-average", "--balance", "--bad-rows", "skip", "--augment", "crop+mixup",
    ]  # fmt: skip
