"""The faults of a chaos run: each takes something away, waits, and gives it back.

Invariants: only parts of the run's own house are touched; whatever a fault has taken is back when it returns.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.rig import PASSWORD, Rig
from bench.traffic import Json, Kind, Traffic

DISK_BYTES = 64 * 2**20


@dataclass(slots=True)
class House:
    """What a fault may touch.

    Attributes:
        disk: A small file system of its own that holds the gateways' spools; None where it cannot be made.
        notes: What a reader of the report should know.
    """

    rig: Rig
    traffic: Traffic
    rate: float
    disk: Path | None
    notes: list[str] = field(default_factory=list[str])


async def nothing(_: House) -> None:
    """The load alone."""
    await asyncio.sleep(8)


async def sidecar_killed(house: House) -> None:
    """One of two, started again after a few seconds."""
    await house.rig.kill("sidecar-1")
    await asyncio.sleep(4)
    await house.rig.again("sidecar-1")


async def sidecar_frozen(house: House) -> None:
    """It accepts connections and answers nothing."""
    house.rig.signal("sidecar-2", signal.SIGSTOP)
    await asyncio.sleep(16)
    house.rig.signal("sidecar-2", signal.SIGCONT)


async def limits_killed(house: House) -> None:
    """The store of limits is gone, and back with its data."""
    await house.rig.kill("limits")
    await asyncio.sleep(6)
    await house.rig.again("limits")


async def limits_frozen(house: House) -> None:
    """The store of limits does not answer."""
    house.rig.signal("limits", signal.SIGSTOP)
    await asyncio.sleep(6)
    house.rig.signal("limits", signal.SIGCONT)


async def limits_flushed(house: House) -> None:
    """The store of limits has forgotten everything."""
    reader, writer = await asyncio.open_connection("127.0.0.1", house.rig.at["limits"])
    writer.write(f"AUTH {PASSWORD}\r\nFLUSHALL\r\nSCRIPT FLUSH\r\n".encode())
    await reader.readline()
    await reader.readline()
    writer.close()
    await asyncio.sleep(3)


async def postgres_killed(house: House) -> None:
    """The database is gone, and back after its recovery."""
    await house.rig.kill("postgres")
    await asyncio.sleep(8)
    await house.rig.again("postgres")


async def provider_down(house: House) -> None:
    """The provider refuses connections."""
    await house.rig.kill("provider")
    await asyncio.sleep(5)
    await house.rig.again("provider")


async def provider_slow(house: House) -> None:
    """Three seconds to the first byte."""
    await _played(
        house, lambda kind: kind.play | {"do": "slow-first", "first_ms": 3000} if _good(kind) else {}
    )


async def provider_cutting(house: House) -> None:
    """It breaks off in the middle of every answer."""
    await _played(house, lambda kind: {"do": "cut"} if _good(kind) else {})


def _good(kind: Kind) -> bool:
    return kind.expected == {200}


async def _played(house: House, twist: Callable[[Kind], Json]) -> None:
    plain = house.traffic.twist
    house.traffic.twist = lambda kind: twist(kind) or kind.play
    await asyncio.sleep(8)
    house.traffic.twist = plain


async def gateway_stopped(house: House) -> None:
    """SIGTERM to one of two, which drains; then it is started again."""
    house.rig.signal("gateway-1", signal.SIGTERM)
    code = await house.rig.ended("gateway-1")
    house.notes.append(f"a gateway told to stop ended with code {code}")
    await house.rig.again("gateway-1")


async def rolling_restart(house: House) -> None:
    """Every sidecar and every gateway, one after the other, each told to stop and started anew."""
    for name in ("sidecar-1", "sidecar-2", "gateway-1", "gateway-2"):
        house.rig.signal(name, signal.SIGTERM)
        await house.rig.ended(name)
        await house.rig.again(name)
        await asyncio.sleep(1.5)


async def gateway_killed(house: House) -> None:
    """One of two, without a word, and started again on its folder."""
    await house.rig.kill("gateway-2")
    await asyncio.sleep(3)
    await house.rig.again("gateway-2")


async def disk_full(house: House) -> None:
    """Not a byte is left where records wait, and the database is gone as well."""
    if house.disk is None:
        house.notes.append("no file system of its own could be made: the disk was not filled")
        return
    filler = house.disk / "filler"
    with filler.open("wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 65536)
            file.flush()
    await asyncio.sleep(2)
    await house.rig.kill("postgres")
    await asyncio.sleep(5)
    await house.rig.again("postgres")
    await asyncio.sleep(2)
    filler.unlink()


Fault = Callable[[House], Awaitable[None]]
WHILE_AWAY = "502 while it is away: nobody else has the model"
FAULTS: tuple[tuple[str, str, Fault], ...] = (
    ("nothing", "no error", nothing),
    ("sidecar kill -9", "502 for calls that ran in it", sidecar_killed),
    ("sidecar frozen", "502 after ten seconds for calls that ran in it", sidecar_frozen),
    ("limits Valkey killed", "no error", limits_killed),
    ("limits Valkey frozen", "no error", limits_frozen),
    ("limits Valkey flushed", "no error", limits_flushed),
    ("Postgres killed", "no error", postgres_killed),
    ("provider down", WHILE_AWAY, provider_down),
    ("provider slow", "no error", provider_slow),
    ("provider cutting", "every answer: 502, or an error event in a stream", provider_cutting),
    ("gateway SIGTERM", "no error", gateway_stopped),
    ("rolling restart", "no error", rolling_restart),
    ("gateway kill -9", "calls that ran in it", gateway_killed),
    ("spool's disk full", "no error", disk_full),
)


@contextmanager
def scratch_disk() -> Iterator[Path | None]:
    """A small file system for spools that can be filled to the last byte; None without the right to mount."""
    folder = Path(tempfile.mkdtemp(prefix="llm-proxy-disk-"))
    mount = shutil.which("mount")
    options = ("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder))
    mounted = os.geteuid() == 0 and mount and subprocess.run([mount, *options], check=False).returncode == 0
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=False)  # noqa: S607 -- beside mount
        shutil.rmtree(folder, ignore_errors=True)
