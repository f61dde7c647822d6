"""Takes the cloud's metadata service out of a container's reach, drops every right, becomes a command.

`python -I -S without_metadata.py COMMAND …`, as root with NET_ADMIN, SETUID and SETGID in a network namespace
of its own. Invariants: the addresses in `METADATA` have an `unreachable` route before
COMMAND runs, or it does not run; COMMAND has the user `LLM_PROXY_UID`, no other group and no capability.
`SIDECAR_METADATA=allow` blocks nothing: for credentials that come from the machine. Standard library only.
"""

import ctypes
import ipaddress
import os
import pwd
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

METADATA = (
    "169.254.169.254/32",  # AWS, Google (metadata.google.internal), Azure and most others
    "169.254.170.2/32",  # credentials of ECS tasks
    "169.254.170.23/32",  # credentials of EKS pods
    "169.254.0.23/32",  # Tencent
    "100.100.100.200/32",  # Alibaba
    "192.0.0.192/32",  # Oracle
    "168.63.129.16/32",  # Azure's wire server
    "fd00:ec2::254/128",  # AWS
    "fd00:ec2::23/128",  # credentials of EKS pods
    "fd20:ce::254/128",  # Google
)
NETLINK_ROUTE, RTM_NEWROUTE, NLMSG_ERROR = 0, 24, 2
NLM_F_REQUEST, NLM_F_ACK, NLM_F_REPLACE, NLM_F_CREATE = 0x1, 0x4, 0x100, 0x400
RT_TABLE_MAIN, RTPROT_BOOT, RTN_UNREACHABLE, RTA_DST, RTA_PRIORITY = 254, 3, 7, 1, 6
HEADER_BYTES = 16
HIGHEST_PRIORITY = 1
PR_SET_NO_NEW_PRIVS = 38
DEFAULT_ID = "1000"
NO_HOME = "/tmp"  # noqa: S108 -- in memory and the container's own


def main(command: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """Blocks the routes, drops the rights and runs the command in this process's place."""
    if environment.get("SIDECAR_METADATA") != "allow":
        for network in METADATA:
            _block(network)
    user = int(environment.get("LLM_PROXY_UID") or DEFAULT_ID)
    _drop_rights(user, int(environment.get("LLM_PROXY_GID") or DEFAULT_ID))
    os.execvpe(command[0], list(command), {**environment, "HOME": _home(user)})  # noqa: S606 -- the container's command


def _block(network: str) -> None:
    """Makes a network unreachable; ends the process if that fails. Source: rtnetlink(7)."""
    try:
        make_unreachable(network)
    except OSError as fault:
        if ":" in network and not _has_ipv6():
            return
        sys.exit(f"{network} cannot be blocked ({fault.strerror}); SIDECAR_METADATA=allow blocks nothing")


def make_unreachable(network: str) -> None:
    """Adds an `unreachable` route to this network namespace; raises `OSError`."""
    destination = ipaddress.ip_network(network)
    family = socket.AF_INET if destination.version == 4 else socket.AF_INET6
    fields = (family, destination.prefixlen, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNREACHABLE, 0)
    body = struct.pack("=BBBBBBBBI", *fields)
    body += _attribute(RTA_DST, destination.network_address.packed)
    body += _attribute(RTA_PRIORITY, struct.pack("=I", HIGHEST_PRIORITY))
    flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
    header = struct.pack("=IHHII", HEADER_BYTES + len(body), RTM_NEWROUTE, flags, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as kernel:
        kernel.bind((0, 0))
        kernel.sendall(header + body)
        answer = kernel.recv(65536)
    _, kind, _, _, _, error = struct.unpack_from("=IHHIIi", answer)
    if kind == NLMSG_ERROR and error:
        raise OSError(-error, os.strerror(-error))


def _attribute(kind: int, value: bytes) -> bytes:
    """A routing attribute; those used here are multiples of four bytes long, so none is padded."""
    return struct.pack("=HH", 4 + len(value), kind) + value


def _home(user: int) -> str:
    """The user's home: programs that read files there are refused at root's."""
    try:
        return pwd.getpwuid(user).pw_dir
    except KeyError:
        return NO_HOME


def _has_ipv6() -> bool:
    """Whether an interface other than the loopback has an IPv6 address."""
    try:
        lines = Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    return any(line.split()[-1] != "lo" for line in lines)


def _drop_rights(user: int, group: int) -> None:
    """Becomes this user for good: no capability is left, and no program brings one back."""
    if ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        sys.exit("no_new_privs cannot be set")
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)


if __name__ == "__main__":
    main(sys.argv[1:], os.environ)
