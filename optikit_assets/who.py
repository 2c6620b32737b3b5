"""Who acts, for what is kept of decisions and publications."""

import getpass
import socket

from optikit_assets.errors import OptikitError


def who() -> str:
    """Return ``USER@HOST``.

    Raises
    ------
    OptikitError
        If nobody can be named.
    """
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError) as error:
        # A user id without an entry, as in a container; of the two each Python has its own.
        raise OptikitError(f"nobody knows who decides: {error}; set the variable USER") from error
