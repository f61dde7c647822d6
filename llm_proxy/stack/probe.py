"""Whether an HTTP server of the stack answers: for waiting on its start, and for health checks of containers.

`python -m llm_proxy.stack.probe PORT PATH` ends with 0 when it does, with 1 when it does not.
"""

import http.client
import json
import re
import sys
from collections.abc import Mapping


def answers(port: int, path: str, host: str = "127.0.0.1", timeout_s: float = 1.0) -> bool:
    """Whether `GET path` gives 200."""
    return _get(host, port, path, {}, timeout_s) is not None


def models(host: str, port: int, key: str) -> list[str]:
    """The model groups a gateway lists for this key; none when it does not answer."""
    body = _get(host, port, "/v1/models", {"Authorization": f"Bearer {key}"}, 5.0)
    return [str(model["id"]) for model in json.loads(body)["data"]] if body else []


def in_flight(port: int) -> int | None:
    """How many calls run at a sidecar of this machine; None when it does not say."""
    return _told(port, b"in_flight", 1.0)


def answered(port: int) -> int:
    """How many calls a sidecar of this machine has answered; 0 when it does not say."""
    return _told(port, b"answered", 0.2) or 0


def _told(port: int, name: bytes, timeout_s: float) -> int | None:
    body = _get("127.0.0.1", port, "/health/liveliness", {}, timeout_s)
    found = re.search(rb'"' + name + rb'": ?(\d+)', body or b"")
    return int(found[1]) if found else None


def _get(host: str, port: int, path: str, headers: Mapping[str, str], timeout_s: float) -> bytes | None:
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", path, headers=dict(headers))
        answer = connection.getresponse()
        return answer.read() if answer.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(not answers(int(sys.argv[1]), sys.argv[2], timeout_s=2.5))
