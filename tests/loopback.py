"""What a client of this machine's own servers is made with: `httpx.AsyncClient(verify=NO_TLS)`.

Without it httpx reads the list of certificate authorities for each client, 20 ms of computing.
"""

import ssl

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody; plain HTTP does not ask it."""
