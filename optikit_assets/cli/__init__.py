"""The `optikit` command: every line that a person types, and nothing that a library could do."""

from optikit_assets.cli.app import main

__all__ = ["main"]
