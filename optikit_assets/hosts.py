"""What the name of a host says."""

import ipaddress
from urllib.parse import urlsplit


def is_loopback(authority: str) -> bool:
    """Whether ``HOST[:PORT]``, as in a URL or a Host header, is this machine itself."""
    if set(authority) & set("@/?#"):
        return False
    try:
        host = urlsplit(f"//{authority}").hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
