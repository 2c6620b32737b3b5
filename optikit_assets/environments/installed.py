"""What is really installed in a stage environment, read without starting its interpreter."""

import hashlib
import json
from pathlib import Path

_INFO = ".dist-info"
_ORIGIN = "direct_url.json"
_CARRIERS = {"obstore"}


def installed(folder: Path) -> dict[str, str]:
    """Return the version of every installed distribution, and Python's own, sorted by name.

    A distribution that was built from a repository or an archive carries its commit or digest after
    a ``+``: two builds of one version are not one thing. What only moves files, whose digests are
    compared, is left out. Empty if there is no environment in `folder`.
    """
    found = {"python": _python(folder)} if (folder / "pyvenv.cfg").exists() else {}
    for info in folder.glob(f"lib/python*/site-packages/*{_INFO}"):
        distribution, _, version = info.name.removesuffix(_INFO).rpartition("-")
        name = distribution.lower().replace("_", "-")
        if name not in _CARRIERS:
            found[name] = version + _origin(info / _ORIGIN)
    return dict(sorted(found.items()))


def _python(folder: Path) -> str:
    for line in (folder / "pyvenv.cfg").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition("=")
        if key.strip() in ("version_info", "version"):
            return value.strip()
    return ""


def _origin(file: Path) -> str:
    try:
        url = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    known = {key: url[key] for key in ("vcs_info", "archive_info") if url.get(key)}
    text = json.dumps(known, sort_keys=True)
    return f"+{hashlib.sha256(text.encode()).hexdigest()[:12]}" if known else ""
