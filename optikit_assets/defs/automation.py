"""Which sensors are on until somebody switches them."""

import dagster as dg

from optikit_assets.settings import settings


def _starts(on: bool) -> dg.DefaultSensorStatus:
    return dg.DefaultSensorStatus.RUNNING if on else dg.DefaultSensorStatus.STOPPED


# Looking costs nothing, and new versions are what somebody put there to be optimized.
FOR_MODELS = _starts(settings().automation != "stopped")
FOR_EDITS = _starts(settings().automation == "running")
