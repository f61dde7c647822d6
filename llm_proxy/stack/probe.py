"""Whether an HTTP server of the stack answers: for waiting on its start, and for health checks of containers.

`python -m llm_proxy.stack.probe PORT PATH` ends with 0 when it does, with 1 when it does not.
"""

import http.client
import sys


def answers(port: int, path: str, host: str = "127.0.0.1", timeout_s: float = 1.0) -> bool:
    """Whether `GET path` gives 200."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(not answers(int(sys.argv[1]), sys.argv[2], timeout_s=2.5))
