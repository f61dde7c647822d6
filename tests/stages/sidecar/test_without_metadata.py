"""The sidecar's container: metadata services out of reach, and every right dropped."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llm_proxy.sidecar import without_metadata

ADDRESSES = [network.partition("/")[0] for network in without_metadata.METADATA]
NETWORK = "ip link set lo up && ip route add default dev lo && ip -6 route add default dev lo"
BLOCK_AND_CONNECT = """
import errno, runpy, socket, sys
blocking = runpy.run_path(sys.argv[1])
for network in blocking["METADATA"]:
    blocking["make_unreachable"](network)
for address in sys.argv[2:]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(0.2)
        print(address, errno.errorcode[client.connect_ex((address, 80))])
"""
STATUS = "id -u; id -g; id -G; echo $HOME; cat /proc/self/status"


def program(name: str) -> str:
    """Where a program is; skips the test without it."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_metadata_services_are_unreachable_at_once_and_other_addresses_are_not() -> None:
    """In a network with a default route, in IPv4 and IPv6."""
    own = [program("unshare"), "--user", "--map-root-user", "--net", "--"]
    if subprocess.run([*own, "/bin/true"], capture_output=True, check=False).returncode:
        pytest.skip("no network namespace can be made here")
    others = ("169.254.1.2", "127.0.0.1")
    script = (sys.executable, "-c", BLOCK_AND_CONNECT, without_metadata.__file__, *ADDRESSES, *others)
    argv = [*own, "/bin/sh", "-c", NETWORK + ' && exec "$@"', "sh", *script]
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    ran = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = dict(line.split() for line in ran.stdout.splitlines())
    assert {found[address] for address in ADDRESSES} == {"EHOSTUNREACH"}
    assert "EHOSTUNREACH" not in {found[address] for address in others}


@pytest.mark.skipif(os.geteuid() != 0, reason="changes the user")
@pytest.mark.parametrize(("metadata", "blocked"), [("", True), ("allow", False)])
def test_the_command_has_no_capability_and_gains_none(metadata: str, *, blocked: bool) -> None:
    """Only its own user, group and home; no route is blocked if the operator allows metadata services."""
    script = Path(without_metadata.__file__).read_text(encoding="utf-8")
    command = ("/bin/sh", "-c", f"{STATUS}; ip route show type unreachable")
    argv = [program("unshare"), "--net", "--", sys.executable, "-IS", "-c", script, *command]
    env = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LLM_PROXY_UID": "1234",
        "LLM_PROXY_GID": "1235",
        "HOME": "/root",
        "SIDECAR_METADATA": metadata,
    }
    ran = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    user, group, groups, home, *lines = ran.stdout.splitlines()
    assert (user, group, groups, home) == ("1234", "1235", "1235", without_metadata.NO_HOME), ran.stderr
    status = dict(line.split(":", 1) for line in lines if ":" in line)
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    assert int(status["NoNewPrivs"]) == 1
    assert ("unreachable 169.254.169.254" in ran.stdout) is blocked


@pytest.mark.skipif(os.geteuid() != 0, reason="begins with rights")
def test_without_the_right_to_block_nothing_runs() -> None:
    """One line says how to go without."""
    weak = [program("setpriv"), "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
    argv = [*weak, sys.executable, "-IS", without_metadata.__file__, "/bin/echo", "ran"]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
    assert "SIDECAR_METADATA=allow blocks nothing" in ran.stderr
