"""Large uploads, sent without holding them, and what they cost a process in memory."""

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path

BLOCK = bytes(range(256)) * 1024
HEAD = (
    b'--cut\r\nContent-Disposition: form-data; name="file"; filename="a.flac"\r\n'
    b"Content-Type: audio/flac\r\n\r\n"
)
TAIL = b'\r\n--cut\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n--cut--\r\n'


async def upload(port: int, key: str, model: str, size: int) -> int:
    """Sends `size` bytes to be transcribed; returns the status."""
    tail = TAIL % model.encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer %b\r\n"
        b"Content-Type: multipart/form-data; boundary=cut\r\nContent-Length: %d\r\n\r\n"
        % (key.encode(), len(HEAD) + size + len(tail))
    )
    writer.write(HEAD)
    for at in range(0, size, len(BLOCK)):
        writer.write(BLOCK[: size - at])
        await writer.drain()
    writer.write(tail)
    answer = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return int(answer.split()[1])


def anonymous_bytes(pid: int) -> int:
    """What a process holds in memory of its own: neither files nor what it shares. Source: proc(5)."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


async def upload_together(
    port: int, key: str, model: str, sizes: Sequence[int], pids: Iterable[int]
) -> tuple[list[int], dict[int, int]]:
    """Sends uploads at the same time; returns their statuses, and by how much each process grew at most."""
    before = {pid: anonymous_bytes(pid) for pid in pids}
    peak = dict(before)
    sending = asyncio.gather(*(upload(port, key, model, size) for size in sizes))
    while not sending.done():
        peak = {pid: max(most, anonymous_bytes(pid)) for pid, most in peak.items()}
        await asyncio.wait([sending], timeout=0.02)
    return await sending, {pid: most - before[pid] for pid, most in peak.items()}
