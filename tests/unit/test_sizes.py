"""House rule: a module of more than 400 lines is two, a function of more than 60 several."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    file for part in ("optikit_assets", "resources") for file in (ROOT / part).rglob("*.py")
)
LINES_OF_A_MODULE = 400
LINES_OF_A_BODY = 60


def bodies(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the name of each function and the lines of its body, without the docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            code = node.body[ast.get_docstring(node) is not None :]
            last = node.body[-1].end_lineno or 0
            yield node.name, last - code[0].lineno + 1 if code else 0


@pytest.mark.slow
def test_modules_and_functions_stay_short() -> None:
    long: dict[str, int] = {}
    for file in MODULES:
        text, name = file.read_text(encoding="utf-8"), str(file.relative_to(ROOT))
        if (lines := len(text.splitlines())) > LINES_OF_A_MODULE:
            long[name] = lines
        found = bodies(ast.parse(text))
        long |= {f"{name}, {f}": lines for f, lines in found if lines > LINES_OF_A_BODY}
    assert long == {}


def test_a_body_is_counted_without_its_docstring() -> None:
    tree = ast.parse('def f():\n    """Say.\n\n    More.\n    """\n    a = 1\n    return a\n')
    assert dict(bodies(tree)) == {"f": 2}
