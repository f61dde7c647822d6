"""What clients of this machine's own servers do without: the list of certificate authorities.

httpx reads it for each client, which takes 24 ms of computing: a test run makes thousands of clients.
"""

import os
import ssl
from collections.abc import Callable
from functools import cache
from typing import Any

from httpx._transports import default

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody; plain HTTP does not ask it: `httpx.AsyncClient(verify=NO_TLS)`."""
_VARIABLES = {"SSL_CERT_FILE", "SSL_CERT_DIR"}


def share_authorities() -> None:
    """Have the list read once for all clients of this process, those of SDKs and of commands among them.

    A client with certificates of its own gets these as ever.
    """
    names = default.__dict__
    make: Callable[..., ssl.SSLContext] = names["create_ssl_context"]
    made = cache(make)

    def shared(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:  # noqa: FBT001, FBT002 -- as httpx has it
        is_usual = verify is True and cert is None and not _VARIABLES & os.environ.keys()
        return (made if is_usual else make)(verify=verify, cert=cert, trust_env=trust_env)

    names["create_ssl_context"] = shared
