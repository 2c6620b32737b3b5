"""Declarative automation: what is requested when a version changes (off until switched on).

``eager()`` ignores code versions and re-runs downstream after unchanged materializations; these
conditions follow data versions.
"""

import dagster as dg

from optikit_assets.settings import settings

SENSORS = dg.DefaultSensorStatus(settings().automation.upper())

_AC = dg.AutomationCondition
_TRIGGER = (
    _AC.newly_missing()
    | _AC.code_version_changed()
    | _AC.any_deps_match(_AC.data_version_changed() | _AC.will_be_requested())
).since_last_handled()  # pyright: ignore[reportAttributeAccessIssue]
_READY = ~_AC.any_deps_missing() & ~_AC.any_deps_in_progress() & ~_AC.in_progress()

VERSIONED = _TRIGGER & _READY
# For the final asset: it waits until none of its inputs is about to change, or it could publish a
# mix of old and new recipes.
SETTLED = VERSIONED & ~_AC.any_deps_match(_TRIGGER)
