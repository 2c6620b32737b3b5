"""A shell script as an engine's configuration, for servers that read no file with all their flags.

What is given to the script comes after its own arguments, such as ``--host`` and ``--port``.
"""

import shlex
from collections.abc import Sequence

_FURTHER = "$@"


def write_script(command: Sequence[str], arguments: Sequence[str], *, header: str = "") -> str:
    """Return a script that becomes the server.

    Parameters
    ----------
    command
        How the server is called, e.g. ``("transformers", "serve")``.
    arguments
        Model and flags.
    header
        Comment lines for people, without the ``#``.
    """
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    return f'#!/bin/sh\n{comment}exec {shlex.join([*command, *arguments])} "{_FURTHER}"\n'


def read_script(text: str, command: Sequence[str]) -> list[str]:
    """Return the arguments of what `write_script` wrote."""
    words = shlex.split(text, comments=True)
    return words[1 + len(command) : words.index(_FURTHER)]
