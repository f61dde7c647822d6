"""Every management route, called with what is wrong: its error names the parameter or the field at fault."""

from collections.abc import Iterator
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest
from running_stack import Json, RunningStack

from llm_proxy.dialects.messages.dialect import MESSAGES
from llm_proxy.dialects.responses.dialect import responses_dialect
from llm_proxy.dialects.routes import inference_routes

BAD_VALUES = ("nobody", "no\0body", "-1", "", "x" * 300, "{", "2026-13-01", str(uuid4()))
GOOD_VALUES = {
    "scope": "tenant",
    "kind": "tenant",
    "role": "viewer",
    "request_id": str(uuid4()),
    "erasure_id": str(uuid4()),
}


class Visitor:
    """Calls routes as an admin, and those of callers with a key."""

    def __init__(self, stack: RunningStack, key: str) -> None:
        self._client = httpx.AsyncClient(base_url=stack.url, timeout=20)
        self._keys = (stack.admin_key, key)
        self.page: Json = {}

    async def open(self) -> None:
        """Reads the page of all routes."""
        self.page = (await self.call("GET", "/openapi.json")).json()

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def call(self, method: str, path: str, body: bytes = b"", **query: str) -> httpx.Response:
        """Returns what a route answers to an admin, or to a caller where it serves no admins."""
        headers = {"Content-Type": "application/json"} if body else {}
        admin, caller = ({**headers, "Authorization": f"Bearer {key}"} for key in self._keys)
        reply = await self._client.request(method, path, content=body, params=query or None, headers=admin)
        if reply.status_code != 401:
            return reply
        return await self._client.request(method, path, content=body, params=query or None, headers=caller)

    def operations(self) -> Iterator[tuple[str, str, Json]]:
        """Method, path and declaration of every management route; errors of calls are their dialects'."""
        table = inference_routes(responses_dialect(None), MESSAGES)
        calls = {path for route in table.routes for path in route.paths} | {"/v1/explain"}
        for path, found in self.page["paths"].items():
            if path not in calls and not path.startswith(("/v1/responses", "/v1beta/", "/v1/messages/")):
                yield from ((method.upper(), path, operation) for method, operation in found.items())

    def body_of(self, operation: Json) -> Json:
        """The schema of a route's body; empty without one."""
        content = operation.get("requestBody", {}).get("content", {})
        schema: Json = content["application/json"]["schema"] if content else {}
        for one in schema.get("anyOf", [schema]):
            if "$ref" in one:
                found: Json = self.page["components"]["schemas"][one["$ref"].rpartition("/")[2]]
                return found
        return schema

    def bodies(self, *values: str) -> Iterator[tuple[str, str, str, str]]:
        """Method, path, field and body of every field of every route, with each value; others are good."""
        for method, route, operation in self.operations():
            schema, path = self.body_of(operation), route.replace("{key}", "nobody")
            good = {name: f'"{GOOD_VALUES.get(name, "nobody")}"' for name in schema.get("required", ())}
            for bad in schema.get("properties", ()):
                for value in values:
                    fields = ", ".join(f'"{name}": {text}' for name, text in (good | {bad: value}).items())
                    yield method, path, bad, f"{{{fields}}}"


@pytest.fixture
async def visitor(stack: RunningStack) -> Visitor:
    """A visitor with a key of its own."""
    made = Visitor(stack, await stack.new_key())
    await made.open()
    return made


def fault(reply: httpx.Response, *names: str) -> str:
    """What is wrong with an answer: it fails, or its error names none of these; empty for nothing."""
    if not reply.is_error:
        return ""
    error = reply.json()["error"]
    named = str(error["param"]).partition("[")[0].partition(".")[0]
    return (
        ""
        if reply.status_code < 500 and named in names
        else f"{reply.request.url} {reply.status_code} {error}"
    )


async def test_an_error_names_the_parameter_at_fault(visitor: Visitor) -> None:
    """What cannot be a value; and what names nothing, which may be another part of the same name."""
    wrong, asked = list[str](), 0
    for method, route, operation in visitor.operations():
        parameters = operation.get("parameters", [])
        names = [one["name"] for one in parameters]
        for bad in names:
            for value in BAD_VALUES:
                path, query = route, dict[str, str]()
                for one in parameters:
                    given = value if one["name"] == bad else GOOD_VALUES.get(one["name"], "nobody")
                    if one["in"] == "path":
                        path = path.replace(f"{{{one['name']}}}", quote(given, safe=""))
                    elif one["required"] or one["name"] == bad:
                        query[one["name"]] = given
                if not path.endswith("/") and "//" not in path:
                    body = b"{}" if visitor.body_of(operation) else b""
                    reply = await visitor.call(method, path, body, **query)
                    required = visitor.body_of(operation).get("required", [])
                    expected = names if reply.status_code == 404 else [bad, *required]
                    wrong, asked = [*wrong, f"{method} {fault(reply, *expected)}"], asked + 1
    await visitor.close()
    assert not [one for one in wrong if "http" in one], "\n".join(one for one in wrong if "http" in one)
    assert asked > 500


async def test_a_parameter_that_is_given_twice_is_named(visitor: Visitor) -> None:
    """None takes two values: the last would count without a word."""
    wrong, asked = list[str](), 0
    for method, route, operation in visitor.operations():
        path = route
        for one in operation.get("parameters", []):
            path = path.replace(f"{{{one['name']}}}", GOOD_VALUES.get(one["name"], "nobody"))
        for one in operation.get("parameters", []):
            if one["in"] == "query":
                body = b"{}" if visitor.body_of(operation) else b""
                reply = await visitor.call(method, f"{path}?{one['name']}=1&{one['name']}=1", body)
                named = reply.is_error and reply.json()["error"]
                if not named or (named["param"], named["code"]) != (one["name"], "duplicate_parameter"):
                    wrong.append(f"{method} {reply.request.url} {reply.status_code} {named}")
                asked += 1
    await visitor.close()
    assert not wrong, "\n".join(wrong)
    assert asked > 50


async def test_half_a_character_is_the_fault_of_its_field(visitor: Visitor) -> None:
    """A lone surrogate is JSON, but no text: neither a store nor a log takes it."""
    wrong, asked = list[str](), 0
    for method, path, bad, body in visitor.bodies(r'"\ud800"', r'["\ud800"]', r'[{"\ud800": "\ud800"}]'):
        reply = await visitor.call(method, path, body.encode())
        found = fault(reply, bad) if reply.status_code == 400 else f"{reply.status_code} {body}"
        wrong += [f"{method} {path} {found}"] if found else []
        asked += 1
    await visitor.close()
    assert not wrong, "\n".join(wrong)
    assert asked > 150


async def test_an_error_names_the_field_at_fault(visitor: Visitor) -> None:
    """A value of no type that a field may have, and a field that stands twice."""
    wrong, asked = list[str](), 0
    for method, path, bad, body in visitor.bodies('{"no": [1]}'):
        reply = await visitor.call(method, path, body.encode())
        wrong.append(f"{method} {fault(reply, bad)}" if reply.is_error else f"{method} {path} took {body}")
        twice = f'{{"{bad}": null, "more": {{}}, "{bad}": null}}'.encode()
        reply = await visitor.call(method, path, twice)
        code = reply.json()["error"]["code"] if reply.is_error else ""
        wrong.append(f"{method} {fault(reply, bad)}")
        wrong += [] if code == "duplicate_parameter" else [f"{method} {path} took {twice!r}"]
        asked += 1
    await visitor.close()
    faults = [one for one in wrong if "http" in one or "took" in one]
    assert not faults, "\n".join(faults)
    assert asked > 50
