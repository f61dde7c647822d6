"""OpenAI's stored Responses: what a key stored is read, listed, cancelled, deleted with that key alone."""

import json
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from scripted.script import Json

_PATH = re.compile(r".*/responses/(?P<id>[^/]+)(?P<what>/cancel|/input_items)?")
_POSTED = re.compile(r".*/responses/(?P<what>compact|input_tokens)")


@dataclass(slots=True)
class Stored:
    """A stored response.

    Attributes:
        key: The credential that stored it.
    """

    key: str
    response: Json
    items: list[Json]


@dataclass(slots=True)
class StoredResponses:
    """Everything that is stored.

    Attributes:
        asked: Every request about it: method, path with query, id.
    """

    kept: dict[str, Stored] = field(default_factory=dict)
    asked: list[Json] = field(default_factory=list)

    def reset(self) -> None:
        """Forget all."""
        self.kept.clear()
        self.asked.clear()

    def keep(self, key: str, body: Json, response: Json) -> None:
        """Store a response unless it is not to be."""
        if body.get("store", True):
            given = body.get("input")
            said = [{"type": "input_text", "text": given}]
            items = (
                [{"type": "message", "role": "user", "content": said}] if isinstance(given, str) else given
            )
            named = [{"id": f"msg_in_{at}", **one} for at, one in enumerate(items or [])]
            done = response if response["status"] != "queued" else response | {"status": "completed"}
            self.kept[response["id"]] = Stored(key, done, named)

    def refused(self, key: str, body: Json) -> str | None:
        """Why a request cannot go on from what it names; None if it can."""
        previous = body.get("previous_response_id")
        found = self.kept.get(previous or "")
        if previous is None or (found is not None and found.key == key):
            return None
        return f"Previous response with id '{previous}' not found."

    def answer(self, method: str, target: str, key: str, raw: bytes) -> tuple[int, Json | list[bytes]] | None:
        """The status and the body, or the frames, of a request about stored responses; None for any other."""
        path, _, query = target.partition("?")
        posted, match = _POSTED.fullmatch(path), _PATH.fullmatch(path)
        if method == "POST" and posted is not None:
            self._note(method, target, key)
            return self._posted(posted["what"], key, json.loads(raw))
        if match is None or (method == "POST" and match["what"] != "/cancel"):
            return None
        self._note(method, target, key)
        found = self.kept.get(match["id"])
        if found is None or found.key != key:
            return 404, _error(f"Response with id '{match['id']}' not found.", "id", None)
        return self._of(found, method, match["what"], parse_qs(query))

    def _note(self, method: str, target: str, key: str) -> None:
        self.asked.append({"method": method, "target": target, "key": key})

    def _posted(self, what: str, key: str, body: Json) -> tuple[int, Json]:
        refused = self.refused(key, body)
        if refused is not None:
            return 400, _error(refused, "previous_response_id", "previous_response_not_found")
        if what == "input_tokens" and "uncountable" in json.dumps(body):
            return 404, _error("Invalid URL (POST /v1/responses/input_tokens)", "id", None)
        if what == "input_tokens":
            return 200, {"object": "response.input_tokens", "input_tokens": 4321}
        usage = {
            "input_tokens": 100, "output_tokens": 10, "total_tokens": 110,
            "input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0},
        }  # fmt: skip
        item = {"id": "cmp_0", "type": "compaction", "encrypted_content": "gAAAA-compact"}
        return 200, {
            "id": "resp_" + "c" * 48, "object": "response.compaction", "created_at": 1,
            "output": [item], "usage": usage, "model": body["model"],
        }  # fmt: skip

    def _of(
        self, found: Stored, method: str, what: str | None, query: dict[str, list[str]]
    ) -> tuple[int, Json | list[bytes]]:
        response = found.response
        if what == "/input_items":
            limit, after = int(query.get("limit", ["20"])[0]), query.get("after", [""])[0]
            ids = [one["id"] for one in found.items]
            begin = ids.index(after) + 1 if after in ids else 0
            page = found.items[begin : begin + limit]
            return 200, {
                "object": "list", "data": page, "has_more": begin + limit < len(found.items),
                "first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None,
            }  # fmt: skip
        if what == "/cancel":
            found.response = response | {"status": "cancelled"}
            return 200, found.response
        if method == "DELETE":
            del self.kept[response["id"]]
            return 200, {"id": response["id"], "object": "response", "deleted": True}
        if query.get("stream") == ["true"]:
            return 200, _replayed(response, int(query.get("starting_after", ["-1"])[0]))
        return 200, response


def _replayed(response: Json, after: int) -> list[bytes]:
    kinds = ("response.created", "response.in_progress", "response.completed")
    frames: list[bytes] = []
    for number, kind in enumerate(kinds):
        event = {"type": kind, "sequence_number": number, "response": response}
        if number > after:
            frames.append(f"event: {kind}\ndata: {json.dumps(event)}\n\n".encode())
    return frames


def _error(message: str, param: str, code: str | None) -> Json:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}
