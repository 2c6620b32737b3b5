"""Inputs of a worker, held to what its plan saw."""

from pathlib import Path

from optikit_assets.artifacts.file_digests import FileDigests
from optikit_assets.artifacts.pins import check_pins
from optikit_assets.workers.messages import Request


def check_inputs(request: Request) -> None:
    """Compare every pin of a request with the disk: before use, and before its result is kept.

    Raises
    ------
    ChangedInputError
        If one differs; nothing that was made since may be stored then.
    """
    # What control remembers of digests lies beside its store.
    remembered = Path(request.store_root).absolute().parent / "cache" / "file-digests.json"
    check_pins(request.pins, FileDigests(remembered))
