"""Counts the tokens of prompts at the sidecars, beside the calls: no slot, no limit of an agent's.

Invariants: a caller has at most `MAX_OF_CALLER` counts at once, a process runs `MAX_RUNNING` and lets as many
as a caller may have wait; a sidecar that cannot count (an unmodified LiteLLM) leaves an estimate by size.
"""

import asyncio
from collections import Counter
from time import monotonic

import orjson

from llm_proxy.dialects import BYTES_PER_TOKEN
from llm_proxy.errors import BadRequest, RateLimited, UpstreamTimeout, backend_unreachable
from llm_proxy.identity import Caller
from llm_proxy.json_access import Json, as_object
from llm_proxy.upstream.client import SidecarClient
from llm_proxy.upstream.http_client import ConnectError
from llm_proxy.upstream.pool import Sidecar

COUNT_PATH = "/llmp/count_tokens"
COUNT_TIMEOUT_S = 30.0
MAX_OF_CALLER = 64
"""Claude Code asks for about 34 at once."""
MAX_RUNNING = 16
_NO_ROUTE = frozenset({404, 405})


class TokenCounter:
    """Counts prompts at the sidecars."""

    def __init__(self, client: SidecarClient | None) -> None:
        """Builds the counter; without a client (mock mode) every count is an estimate."""
        self._client = client
        self._running = asyncio.Semaphore(MAX_RUNNING)
        self._of_caller: Counter[str] = Counter()

    async def count(self, caller: Caller, prompt: Json, size_bytes: int) -> int:
        """Returns the tokens of a prompt.

        Args:
            caller: Whose count it is.
            prompt: The body for the sidecar.
            size_bytes: The size of the caller's body, for the estimate.

        Raises:
            RateLimited: The caller has too many counts at once.
            BadRequest: The prompt cannot be counted.
            UpstreamUnreachable: No sidecar runs.
            UpstreamTimeout: The count takes too long.
        """
        if self._client is None:
            return _estimate(size_bytes)
        if self._of_caller[caller.root_key_id] >= MAX_OF_CALLER:
            raise RateLimited(f"At most {MAX_OF_CALLER} counts of tokens may run at once.", retry_after_s=1)
        self._of_caller[caller.root_key_id] += 1
        try:
            async with self._running, asyncio.timeout(COUNT_TIMEOUT_S):
                status, answer = await _ask(self._client, orjson.dumps(prompt))
        except TimeoutError:
            raise UpstreamTimeout("The tokens were not counted in time.") from None
        finally:
            self._of_caller[caller.root_key_id] -= 1
            if not self._of_caller[caller.root_key_id]:
                del self._of_caller[caller.root_key_id]
        return _tokens(status, answer, size_bytes)


async def _ask(client: SidecarClient, body: bytes) -> tuple[int, bytes]:
    """Asks one sidecar after another until one can be reached."""
    tried: list[Sidecar] = []
    while (sidecar := client.pool.pick(monotonic(), tried)) is not None and sidecar not in tried:
        tried.append(sidecar)
        try:
            return await client.post(sidecar, COUNT_PATH, body, timeout_s=COUNT_TIMEOUT_S)
        except ConnectError:
            continue
        except TimeoutError:
            raise
        except OSError:
            break
    raise backend_unreachable()


def _tokens(status: int, answer: bytes, size_bytes: int) -> int:
    if status in _NO_ROUTE:
        return _estimate(size_bytes)
    try:
        tokens = as_object(orjson.loads(answer)).get("input_tokens")
    except orjson.JSONDecodeError:
        tokens = None
    if not isinstance(tokens, int):
        raise BadRequest("The tokens of this prompt cannot be counted.", param="messages")
    return tokens


def _estimate(size_bytes: int) -> int:
    return -(-size_bytes // BYTES_PER_TOKEN)
