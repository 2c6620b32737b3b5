"""Constraints between parameters of a search space, such as ``max_num_seqs <= 4 * block_size``.

Grammar: ``PRODUCT OPERATOR PRODUCT``, a product being names and numbers with ``*`` between them,
the operator one of ``<= < >= > == !=``.
"""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Value = bool | int | float | str | None

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_SPLIT = re.compile(r"(<=|>=|==|!=|<|>)")
_NAME = re.compile(r"^[a-z][a-z0-9_]*$")


@dataclass(frozen=True)
class Constraint:
    """A parsed constraint; ``text`` is how it was written."""

    text: str
    left: tuple[str | float, ...]
    operator: str
    right: tuple[str | float, ...]

    @classmethod
    def parse(cls, text: str) -> "Constraint":
        """Read a constraint.

        Raises
        ------
        ValueError
            If it is none.
        """
        parts = _SPLIT.split(text)
        if len(parts) != 3:
            raise ValueError(
                f"{text!r} is no constraint: write NAME <= NAME, with one of {' '.join(_OPERATORS)}"
            )
        return cls(text, _product(parts[0], text), parts[1], _product(parts[2], text))

    @property
    def names(self) -> tuple[str, ...]:
        """Parameters that it is about."""
        return tuple(term for term in (*self.left, *self.right) if isinstance(term, str))

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Return whether it holds; it says nothing about what has no number among `values`."""
        left, right = _value(self.left, values), _value(self.right, values)
        return left is None or right is None or _OPERATORS[self.operator](left, right)


def _product(text: str, whole: str) -> tuple[str | float, ...]:
    return tuple(_term(part.strip(), whole) for part in text.split("*"))


def _term(text: str, whole: str) -> str | float:
    if _NAME.match(text):
        return text
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{whole!r}: {text!r} is neither a parameter nor a number") from None


def _value(terms: tuple[str | float, ...], values: Mapping[str, Value]) -> float | None:
    product = 1.0
    for term in terms:
        value = values.get(term) if isinstance(term, str) else term
        if isinstance(value, str) or value is None:
            return None
        product *= value
    return product
