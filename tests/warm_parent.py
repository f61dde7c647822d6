"""Imports LiteLLM once and forks from it the sidecars that `warm_sidecars` asks for, a JSON line each.

Run by LiteLLM's Python. Invariants: it has one thread, and opens nothing. A fork whose environment differs in
a variable that the import read executes the usual command instead, in the same process.
"""

import ctypes
import gc
import inspect
import json
import os
import re
import signal
import socket
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, NoReturn

from llm_proxy.sidecar import __main__ as program
from llm_proxy.sidecar import launch
from llm_proxy.sidecar.environment import build_environment
from llm_proxy.sidecar.process_log import log_line

Json = dict[str, Any]
PR_SET_PDEATHSIG = 1
LOOKED_THROUGH = re.compile(r"\w*_proxy|prisma\w*", re.IGNORECASE)
"""Variables that httpx and Prisma find by going through all of them."""
environment_type: Any = type(os.environ)
read_variable = environment_type.__getitem__


@dataclass(frozen=True, slots=True)
class Import:
    """What the import of LiteLLM did with the environment.

    Attributes:
        read: Each variable that it read, with its value before; None where it was not set.
        written: What it set.
    """

    read: dict[str, str | None]
    written: dict[str, str]

    def differing(self) -> list[str]:
        """Return the variables whose values are others now."""
        names = self.read.keys() | set(filter(LOOKED_THROUGH.fullmatch, os.environ))
        return sorted(name for name in names if os.environ.get(name) != self.read.get(name))


def record_import() -> Import:
    """Import LiteLLM."""
    before = dict(os.environ)
    read: dict[str, str | None] = {name: before[name] for name in filter(LOOKED_THROUGH.fullmatch, before)}

    def record(environment: MutableMapping[str, str], name: str) -> str:
        asking = inspect.currentframe()
        if asking and asking.f_back and asking.f_back.f_code.co_name != "__iter__":  # through all of them
            read[name] = before.get(name)
        value: str = read_variable(environment, name)
        return value

    environment_type.__getitem__ = record
    launch.import_litellm()
    environment_type.__getitem__ = read_variable
    return Import(read, dict(os.environ.items() - before.items()))


def serve(requests: socket.socket) -> Json | None:
    """Answer requests to their end; return in a forked process, with the request to be a sidecar."""
    with requests.makefile("rwb", buffering=0) as lines:
        while line := lines.readline():
            asked = json.loads(line)
            if "ended" in asked:
                pid, status = os.waitpid(asked["ended"], os.WNOHANG)
                answer = os.waitstatus_to_exitcode(status) if pid else None
            else:
                answer = os.fork()
                if answer == 0:
                    return dict(asked)
            lines.write(json.dumps(answer).encode() + b"\n")
    return None


def become_sidecar(asked: Json, parent: int, done: Import) -> NoReturn:
    """Run the program as if it had been started with this command, environment, folder and log."""
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    log = os.open(asked["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for number in (1, 2):
        os.dup2(log, number)
    os.chdir(asked["cwd"])
    if "-m" in asked["argv"]:
        sys.path.insert(0, asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    imported = launch.import_litellm

    def import_unless_different() -> Any:
        if differs := done.differing():
            log_line(f"LiteLLM is imported anew: {', '.join(differs)} differ")
            os.execve(asked["argv"][0], asked["argv"], asked["env"])  # noqa: S606 -- no shell is wanted
        os.environ.update(done.written)
        return imported()

    launch.import_litellm = import_unless_different  # type: ignore[assignment]
    sys.argv = asked["argv"]
    sys.exit(program.main(asked["argv"][asked["argv"].index("--config") :]))


def main() -> None:
    """Import, serve."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(requests.fileno(), False)  # noqa: FBT003 -- as it is defined
    environment = build_environment(os.environ, "")
    os.environ.clear()
    os.environ.update(environment)
    gc.disable()
    done = record_import()
    gc.freeze()
    parent = os.getpid()
    asked = serve(requests)
    if asked is not None:
        requests.close()
        become_sidecar(asked, parent, done)


if __name__ == "__main__":
    main()
