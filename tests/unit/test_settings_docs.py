"""``docs/daily-use.md`` names every setting, with its default where that is a plain value."""

import re

from optikit_assets.locations import REPOSITORY
from optikit_assets.settings import Settings

PAGE = (REPOSITORY / "docs" / "daily-use.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `OPTIKIT_(\w+)` \|.*\| (.*?) \|$", PAGE, re.MULTILINE))


def test_every_setting_is_named() -> None:
    assert {name.upper() for name in Settings.model_fields} <= set(ROWS)


def test_plain_defaults_are_those_of_the_code() -> None:
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, int | float | str) and field.default != "":
            assert ROWS[name.upper()].split(":")[0].strip("`") == f"{field.default}", name
