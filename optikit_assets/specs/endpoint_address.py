"""Where an OpenAI-compatible endpoint is, kept apart from the credentials that it asks for.

An address is kept in records, histories and messages, so it holds no secret: user and password of
a URL become a header as soon as the URL comes in.
"""

import base64
import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from optikit_assets.errors import EndpointError

CREDENTIALS_VARIABLE = "OPTIKIT_ENDPOINT_CREDENTIALS"
"""USER:PASSWORD of the endpoint that the evaluate worker asks, where a URL cannot hold them."""

JUDGE_CREDENTIALS_VARIABLE = "OPTIKIT_JUDGE_CREDENTIALS"
"""USER:PASSWORD of a suite's ``judge_endpoint``."""

_USER_INFO = re.compile(r"//\S*@")


@dataclass(frozen=True)
class EndpointAddress:
    """A base URL without credentials, and the user and password that came with it.

    Attributes
    ----------
    url
        Up to and including ``/v1``, without a slash at its end.
    credentials
        ``USER:PASSWORD``, or an empty string.
    """

    url: str
    credentials: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str, *, called: str = "the base URL") -> "EndpointAddress":
        """Take a URL apart; ``called`` is how messages name it.

        Raises
        ------
        EndpointError
            If it is no ``http`` or ``https`` URL, or has a query or a fragment: a key that is
            written there would be kept in every record. The text itself is never repeated, since
            what cannot be parsed may hold a password.
        """
        try:
            parts = urlsplit(text.strip())
            host, port = parts.hostname, parts.port
        except ValueError:
            parts, host, port = None, None, None
        if parts is None or parts.scheme not in ("http", "https") or not host:
            raise EndpointError(
                f"{called} is not of the form http://HOST[:PORT]/v1; in a user name or password, "
                "characters such as / ? # : @ have to be percent-encoded"
            )
        if parts.query or parts.fragment or "@" in parts.path:
            raise EndpointError(
                f"{called} may have nothing behind its path: it is kept in records and histories, "
                "so a key does not belong there; set OPENAI_API_KEY instead (in a user name or "
                "password, characters such as / ? # : @ have to be percent-encoded)"
            )
        where = f"[{host}]" if ":" in host else host
        shown = where if port is None else f"{where}:{port}"
        credentials = ""
        if parts.username or parts.password:
            credentials = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        return cls(f"{parts.scheme}://{shown}{parts.path}".rstrip("/"), credentials)


def url_to_keep(text: str, *, called: str, kept: str, variable: str) -> str:
    """Return a URL that is stored as it is written, and so may not hold credentials.

    Parameters
    ----------
    called, kept, variable
        For the message: what the URL is, where it is kept, and the environment variable that takes
        its credentials.

    Raises
    ------
    EndpointError
        As `EndpointAddress.parse`, and if it holds a user or password.
    """
    address = EndpointAddress.parse(text, called=called)
    if address.credentials:
        raise EndpointError(
            f"{called} may not hold a user or password, since it is kept {kept}; set {variable} to "
            "USER:PASSWORD in the environment instead"
        )
    return address.url


def authorization(credentials: str | None, key: str | None) -> dict[str, str]:
    """Return the header for ``USER:PASSWORD`` if there is one, else for a key, else none."""
    if credentials:
        return {"Authorization": f"Basic {base64.b64encode(credentials.encode()).decode()}"}
    return {"Authorization": f"Bearer {key}"} if key else {}


def without_credentials(text: str) -> str:
    """Return a text that is shown to people without the user and password of any URL in it."""
    return _USER_INFO.sub("//…@", text)
