"""The shell script that starts ``transformers serve``, which reads no file of flags.

What is given to the script comes after its own arguments, such as ``--host`` and ``--port``.
"""

import shlex
from collections.abc import Mapping

from optikit_assets.engines.flags import Flags
from optikit_assets.engines.transformers.flag_catalog import catalog
from optikit_assets.errors import ModelError
from optikit_assets.specs.search_space import Scalar

COMMAND = ("transformers", "serve")
_FURTHER = "$@"


def write_script(flags: Mapping[str, Scalar], *, model: str, header: str = "") -> str:
    """Return the script; see `Engine.config_text`.

    Raises
    ------
    ModelError
        If the server would read something else than a folder in the model's path.
    """
    if "@" in model:
        raise ModelError(
            f"{model}: transformers serve takes what follows the @ for a revision; move the model, "
            "or OPTIKIT_HOME, to a path without one"
        )
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    command = shlex.join([*COMMAND, model, *catalog().to_argv(flags)])
    return f'#!/bin/sh\n{comment}exec {command} "{_FURTHER}"\n'


def read_arguments(text: str) -> list[str]:
    """Return model and flags as the script has them."""
    words = shlex.split(text, comments=True)
    return words[words.index(COMMAND[1]) + 1 : words.index(_FURTHER)]


def read_flags(text: str) -> Flags:
    """Read the flags back from what `write_script` wrote."""
    return catalog().from_argv(read_arguments(text)[1:])
