"""Inputs of a worker, held to what its plan saw."""

from collections.abc import Iterable

from optikit_assets.artifacts.file_digests import FileDigests
from optikit_assets.artifacts.pins import Pin, check_pins
from optikit_assets.settings import settings


def check_inputs(pins: Iterable[Pin]) -> None:
    """Compare every pin with the disk: before it is read, and before what it gave is kept.

    Raises
    ------
    ChangedInputError
        If one differs; nothing that was made since may be stored then.
    """
    check_pins(pins, FileDigests(settings().digests))
