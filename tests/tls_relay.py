"""TLS before a plain port: `python tests/tls_relay.py PORT TO CERTIFICATE KEY [postgres]`.

With `postgres` the client first asks for TLS in Postgres's own way (its SSLRequest) and is told yes.
"""

import contextlib
import socket
import ssl
import sys
import threading

SSL_REQUEST_BYTES = 8


def _copy(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    for end in (one, other):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _serve(front: socket.socket, to: int, context: ssl.SSLContext, *, postgres: bool) -> None:
    with contextlib.suppress(OSError):
        if postgres:
            front.recv(SSL_REQUEST_BYTES)
            front.sendall(b"S")
        with (
            context.wrap_socket(front, server_side=True) as plain,
            socket.create_connection(("127.0.0.1", to)) as behind,
        ):
            back = threading.Thread(target=_copy, args=(behind, plain), daemon=True)
            back.start()
            _copy(plain, behind)
            back.join()


def main() -> None:
    """Relay until killed."""
    port, to, certificate, key, *kind = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", int(port)), backlog=64) as listener:
        while True:
            front, _ = listener.accept()
            serve = {"postgres": kind == ["postgres"]}
            threading.Thread(target=_serve, args=(front, int(to), context), kwargs=serve, daemon=True).start()


if __name__ == "__main__":
    main()
