"""A Postgres server of one's own on loopback, for the Dagster instance of several machines.

Its programs are those of the distribution (Debian: ``apt-get install postgresql``).
"""

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from optikit_assets.engines.server import free_port

_LIMIT_S = 60.0
_USER = "optikit"


def programs() -> Path | None:
    """Return the folder of ``initdb`` and ``pg_ctl``, None if there is none."""
    on_path = shutil.which("pg_ctl")
    if on_path is not None:
        return Path(on_path).parent
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    return found[-1].parent if found else None


@contextmanager
def postgres_server() -> Iterator[str]:
    """Run a server for the time of the context; yield the URL of its database.

    Where this process is root, the server runs as ``postgres``. Its files go with it.
    """
    where = programs()
    if where is None:
        raise FileNotFoundError("pg_ctl: install Postgres (Debian: apt-get install postgresql)")
    with tempfile.TemporaryDirectory(prefix="optikit-postgres-") as name:
        yield from _serve(where, Path(name))


def _serve(where: Path, folder: Path) -> Iterator[str]:
    password = secrets.token_urlsafe(16)
    (folder / "password").write_text(password + "\n", encoding="ascii")
    port = free_port()
    as_postgres = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if as_postgres:
        owner = pwd.getpwnam("postgres")
        for path in (folder, folder / "password"):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    data = folder / "data"

    def call(program: str, *arguments: str) -> None:
        subprocess.run(
            [*as_postgres, where / program, *arguments],
            check=True, stdout=subprocess.DEVNULL, timeout=_LIMIT_S, cwd="/",
        )  # fmt: skip

    call(
        "initdb", "-D", str(data), "-U", _USER, "--auth=scram-sha-256",
        f"--pwfile={folder / 'password'}", "--no-sync",
    )  # fmt: skip
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='{folder}'"
    call("pg_ctl", "start", "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options)
    try:
        yield f"postgresql+psycopg2://{_USER}:{quote(password)}@127.0.0.1:{port}/postgres"
    finally:
        call("pg_ctl", "stop", "-D", str(data), "-m", "immediate")
