"""How long things say how far they are, to whoever wants to know."""

from collections.abc import Callable

Tell = Callable[[int, int, str], None]
"""Hears that so many parts of so many are done, and what a part is (layers, items)."""


def to_nobody(done: int, total: int, what: str) -> None:
    """Tell nobody."""
