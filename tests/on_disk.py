"""What a loss of power leaves: which paths were synced before and after a rename."""

import os
from pathlib import Path

import pytest


class Watched:
    """Every sync and rename of this process, in order.

    Attributes
    ----------
    done
        ``("sync", path, "")`` and ``("rename", from, to)``.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[tuple[str, str, str]] = []
        fsync, rename = os.fsync, os.rename

        def watch_sync(descriptor: int) -> None:
            self.done.append(("sync", str(Path(f"/proc/self/fd/{descriptor}").readlink()), ""))
            fsync(descriptor)

        def watch_rename(source: Path, target: Path) -> None:
            rename(source, target)
            self.done.append(("rename", str(source), str(target)))

        monkeypatch.setattr(os, "fsync", watch_sync)
        monkeypatch.setattr(os, "rename", watch_rename)

    def lasts(self, folder: Path) -> bool:
        """Whether what is in a folder was on the disk before its name, and that at the end."""
        renames = [step for step in self.done if step[2] == str(folder)]
        at = self.done.index(renames[-1])
        before, after = self.done[:at], self.done[at:]
        part = Path(renames[-1][1])
        names = [path.relative_to(folder) for path in (folder, *folder.rglob("*"))]
        whole = all(("sync", str(part / name), "") in before for name in names)
        return whole and ("sync", str(folder.parent), "") in after
