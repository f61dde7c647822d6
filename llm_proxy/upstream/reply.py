"""The noun upstream makes: what the sidecar answered, before a byte of it reaches the caller.

Invariant: `headers` of the sidecar never leave this stage; what may be told of them is in `Served`.
"""

from typing import Protocol

from llm_proxy.upstream.frames import Frames
from llm_proxy.upstream.said import Served
from llm_proxy.upstream.usage import Usage


class Reply(Protocol):
    """An answer on its way: either one JSON body or a stream of frames.

    Attributes:
        served: Who answered.
        frames: The stream's frames; None when the answer is one body.
    """

    served: Served
    frames: Frames | None

    async def json(self) -> tuple[bytes, Usage | None]:
        """The whole body, LiteLLM's additions taken out, and what it says was used."""
        ...

    async def chunk(self) -> bytes | None:
        """The next bytes that may go out now (perhaps none); None when the stream has ended."""
        ...

    def close(self) -> None:
        """Let go of the connection; unread, it is closed, and the provider is cancelled."""
        ...
