"""What locust's users do: one chat call or stream after the other; `bench.by_locust` runs it.

Invariants: imports nothing of this project, which is not installed there; a stream that does not end with
`[DONE]` is a failure.
"""

import json
import os
from typing import Any

from locust import FastHttpUser, task  # type: ignore[import-not-found] # mypy: locust stands in .bench alone
from locust.contrib.fasthttp import ResponseContextManager  # type: ignore[import-not-found] # mypy: the same

STREAM = bool(os.environ.get("STREAM"))
BODY: dict[str, Any] = json.loads(os.environ["BODY"])
HEADERS = {"Authorization": f"Bearer {os.environ['KEY']}", "Content-Type": "application/json"}


class Caller(FastHttpUser):  # type: ignore[misc] # mypy: the class is untyped where locust is not installed
    """Calls again as soon as its last answer is complete, as in LiteLLM's own load test without its pause."""

    @task  # type: ignore[untyped-decorator] # mypy: the same
    def call(self) -> None:
        """One chat call."""
        answer: ResponseContextManager
        with self.client.post(
            "/v1/chat/completions", data=json.dumps(BODY), headers=HEADERS, catch_response=True
        ) as answer:
            text = answer.text or ""
            if answer.status_code != 200 or (STREAM and "data: [DONE]" not in text):
                answer.failure(f"{answer.status_code}: {text[:200]}")
