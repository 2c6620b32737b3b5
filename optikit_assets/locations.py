"""Where the project's own files lie: in a checkout, or inside the installed package."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_SHIPPED = _PACKAGE / "shipped"

IS_CHECKOUT = not _SHIPPED.is_dir()
REPOSITORY = _PACKAGE.parent if IS_CHECKOUT else _SHIPPED
"""The folder of ``recipes/``, ``demo/``, ``requirements/`` and ``pyproject.toml``."""

WORKER_PATH = str(REPOSITORY) if IS_CHECKOUT else ""
"""What PYTHONPATH is for a process of another environment; an installed package is linked there."""


def default_home() -> Path:
    """Return OPTIKIT_HOME where it is not set: in the checkout, else below the user's own."""
    return REPOSITORY / ".optikit" if IS_CHECKOUT else Path.home() / ".optikit"
