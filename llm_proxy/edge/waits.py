"""How long a connection may wait: for a head, for the rest of a body, for a peer that says or takes nothing.

Invariant: what the gateway can see it ends itself, once a second; what only the kernel sees, the kernel ends.
Units: seconds.
"""

import socket
import sys
from collections.abc import Iterable
from typing import Any

from llm_proxy.edge.wire import Connection

KEEPALIVE_IDLE_S, KEEPALIVE_EVERY_S = 60, 15


def bound_waits(listener: socket.socket, unread_s: float) -> None:
    """Have the kernel end what connections of this listener can wait for without end.

    A peer that is gone is asked for after a minute's quiet; one that takes nothing of what it was sent for
    `unread_s` seconds is let go, answer or not. Accepted sockets inherit both (tcp(7)).
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_EVERY_S)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(unread_s * 1000))


def close_slow(connections: Iterable[Any], now: float, *, head_s: float, idle_s: float) -> None:
    """Close who takes longer than that for a head, or the rest nobody reads, or for nothing.

    Never while an answer is being given; a head that began meanwhile has its time from then on.
    """
    for connection in list(connections):
        if not isinstance(connection, Connection) or connection.answering:
            continue
        idle_since, since = connection.idle_since, connection.head_since
        if since is None:
            since = connection.drained_since
        if since is not None:
            is_late = now - max(since, idle_since or since) > head_s
        else:
            is_late = idle_since is not None and now - idle_since > idle_s
        if is_late:
            connection.transport.close()
