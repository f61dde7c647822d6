"""Raw HTTP: `send_raw` sends bytes and returns what comes back; `RecordingRelay` records what passes.

`send_raw` never interprets what it sends. `RecordingRelay` stands between the gateway and a sidecar and keeps
every byte the sidecar was sent; connections are copied unchanged.
"""

import contextlib
import json
import re
import select
import socket
import threading
from dataclasses import dataclass, field

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n")
_CLOSES = re.compile(rb"(?i)\r\nconnection: close\r\n")
_HEAD = re.compile(
    rb"(?:GET|POST|PUT|DELETE|HEAD|OPTIONS|PATCH|CONNECT|TRACE) \S+ HTTP/1\.[01]\r\n.*?\r\n\r\n", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """What came back on one connection.

    Attributes:
        raw: Every byte.
        closed: Whether the server closed the connection; False when it waits for more.
    """

    raw: bytes
    closed: bool

    @property
    def statuses(self) -> list[int]:
        """The status of each response, without interim ones."""
        return [int(found) for found in _STATUS.findall(self.raw) if found != b"100"]

    @property
    def body(self) -> bytes:
        """What followed the last head."""
        return self.raw.rpartition(b"\r\n\r\n")[2]

    @property
    def code(self) -> str | None:
        """The code of an error in OpenAI's envelope."""
        found: str | None = json.loads(self.body)["error"]["code"]
        return found


def send_raw(port: int, *pieces: bytes, wait_s: float = 3, answers: int = 1) -> RawAnswer:
    """Returns `answers` complete responses, or what had come when the server closed or fell silent."""
    came = b""
    with socket.create_connection(("127.0.0.1", port), timeout=wait_s) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with contextlib.suppress(ConnectionError):  # what was said before the server closed can be read
                for piece in pieces:
                    connection.sendall(piece)
            while not _are_complete(came, answers):
                more = connection.recv(65536)
                if not more:
                    return RawAnswer(came, closed=True)
                came += more
            connection.settimeout(wait_s if _CLOSES.search(came) else 0.005)
            return RawAnswer(came, closed=connection.recv(1) == b"")
        except TimeoutError:
            return RawAnswer(came, closed=False)
        except OSError:
            return RawAnswer(came, closed=True)


def _are_complete(came: bytes, answers: int) -> bool:
    """Returns whether so many responses with a length are complete."""
    rest = came
    for _ in range(answers):
        head, found, rest = rest.partition(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 100") and found:
            head, found, rest = rest.partition(b"\r\n\r\n")
        sized = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        if not found or sized is None or len(rest) < int(sized[1]):
            return False
        rest = rest[int(sized[1]) :]
    return True


@dataclass
class RecordingRelay:
    """A relay on a port of its own, before another port of this machine.

    Attributes:
        to: The port behind it.
        port: Its own.
    """

    to: int
    port: int = 0
    _sent: dict[int, bytearray] = field(default_factory=dict[int, bytearray])
    _listener: socket.socket = field(default_factory=socket.socket)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(128)
        self._listener.settimeout(0.2)
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    @property
    def sent(self) -> bytes:
        """Every byte that went to the port behind, connection by connection."""
        return b"\n".join(bytes(one) for one in list(self._sent.values()))

    def heads(self) -> list[bytes]:
        """The head of every request that went there."""
        return _HEAD.findall(self.sent)

    def close(self) -> None:
        """Stop relaying."""
        self._ended.set()
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        running: list[threading.Thread] = []
        while not self._ended.is_set():
            try:
                front, _ = self._listener.accept()
            except TimeoutError:
                continue
            running.append(threading.Thread(target=self._copy, args=(front, len(self._sent))))
            self._sent[len(self._sent)] = bytearray()
            running[-1].start()
        for one in running:
            one.join()

    def _copy(self, front: socket.socket, number: int) -> None:
        with front, socket.create_connection(("127.0.0.1", self.to)) as behind:
            while not self._ended.is_set():
                for ready in select.select([front, behind], [], [], 0.2)[0]:
                    try:
                        data = ready.recv(65536)
                    except OSError:
                        return
                    if not data:
                        return
                    if ready is front:
                        self._sent[number] += data
                    (behind if ready is front else front).sendall(data)
