"""Stored responses of native groups, with OpenAI's SDK: through gateway and sidecar to the provider."""

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest
from loopback import NO_TLS
from running_stack import Json, RunningStack, script

from llm_proxy.sealing import Sealer, SealingKey

MODEL = "native-pair"


def say(text: str = "x", **directive: object) -> str:
    """An input that tells the provider what to do."""
    return text + " " + script(do="ok", **directive)


async def asked(stack: RunningStack) -> list[Json]:
    """What the provider was asked about stored responses."""
    async with httpx.AsyncClient(verify=NO_TLS) as client:
        found: list[Json] = (await client.get(f"{stack.provider_url}/_calls")).json()["asked"]
    return found


async def send(
    stack: RunningStack, method: str, path: str, body: Json | None = None, **headers: str
) -> httpx.Response:
    """One request with the stack's key; `_` in a header's name is `-`."""
    named = stack.auth | {name.replace("_", "-"): value for name, value in headers.items()}
    async with httpx.AsyncClient(verify=NO_TLS, timeout=30) as client:
        return await client.request(method, stack.url + path, headers=named, json=body)


async def test_a_response_lives_at_its_own_deployment(stack: RunningStack) -> None:
    """Created, gone on from, read, listed, deleted: at the account that made it, of two."""
    responses = stack.openai.responses
    for _ in range(4):
        first = await responses.create(model=MODEL, input=say("first"))
        second = await responses.create(model=MODEL, input=say("second"), previous_response_id=first.id)
        assert second.previous_response_id == first.id
        read = await responses.retrieve(second.id, include=["message.output_text.logprobs"])
        assert (read.id, read.status, read.output_text) == (second.id, "completed", second.output_text)
        assert (read.previous_response_id or "").startswith("resp_k1.")
        again = await responses.retrieve(read.previous_response_id or "")
        assert again.output_text == first.output_text
        items = await responses.input_items.list(first.id, limit=1)
        assert "first" in str(items.data[0])
        await responses.delete(first.id)
        with pytest.raises(openai.NotFoundError) as gone:
            await responses.retrieve(first.id)
        assert (gone.value.param, gone.value.code) == ("id", "response_not_found")
        assert f"Response with id '{first.id}' not found." in gone.value.message
        with pytest.raises(openai.BadRequestError) as cut:
            await responses.create(model=MODEL, input=say(), previous_response_id=first.id)
        assert (cut.value.param, cut.value.code) == ("previous_response_id", "previous_response_not_found")
    keys = {one["key"] for one in await asked(stack)}
    calls = {one["headers"]["authorization"] for one in await stack.calls()}
    assert keys <= calls
    assert any("include" in one["target"] for one in await asked(stack))


async def test_no_event_shows_the_providers_id(stack: RunningStack) -> None:
    """Created, streamed and read again as a stream: one id of ours in all events, and it opens."""
    responses = stack.openai.responses
    first = await responses.create(model=MODEL, input=say("first"))
    body = {"model": MODEL, "input": say(), "stream": True, "previous_response_id": first.id}
    told = await send(stack, "POST", "/v1/responses", body)
    events = [json.loads(line[6:]) for line in told.text.splitlines() if line.startswith("data: ")]
    ids = {event["response"]["id"] for event in events if "response" in event}
    assert len(ids) == 1
    assert {event["response"]["previous_response_id"] for event in events if "response" in event} == {
        first.id
    }
    assert "resp_0" not in told.text
    [made] = ids
    stream = await responses.retrieve(made, stream=True, starting_after=0)
    replayed: list[Any] = [event async for event in stream]
    assert [event.sequence_number for event in replayed] == [1, 2]
    assert {event.response.id for event in replayed} == {made}
    rest = await responses.retrieve(made, stream=True, starting_after=replayed[-1].sequence_number)
    assert [event async for event in rest] == []
    assert "resp_0" not in (await send(stack, "GET", f"/v1/responses/{made}")).text


async def test_reading_costs_a_request_and_nothing_else(stack: RunningStack) -> None:
    """Its record has no tokens and no money, whatever the response that is read has."""
    made = await stack.openai.responses.create(model=MODEL, input=say())
    for path in (f"/v1/responses/{made.id}", f"/responses/{made.id}?stream=true"):
        reply = await send(stack, "GET", path)
        assert reply.status_code == 200
        story = await stack.story(reply.headers["x-request-id"])
        assert (story["prompt_tokens"], story["completion_tokens"], float(story["cost_usd"])) == (0, 0, 0)
        assert (story["outcome"], story["model_group"]) == ("ok", MODEL)
        assert float(reply.headers.get("x-llm-proxy-cost-usd", 0)) == 0


async def test_a_response_in_the_background(stack: RunningStack) -> None:
    """Queued, read when it is done, cancelled; billed by an estimate, for nobody says what it will use."""
    responses = stack.openai.responses
    reply = await send(
        stack,
        "POST",
        "/v1/responses",
        {"model": MODEL, "input": say(), "background": True, "max_output_tokens": 500},
    )
    made = reply.json()
    assert made["status"] == "queued"
    story = await stack.story(reply.headers["x-request-id"])
    assert (story["completion_tokens"], story["usage_source"]) == (500, "estimated")
    assert (await responses.retrieve(made["id"])).status == "completed"
    cancelled = await responses.cancel(made["id"])
    assert (cancelled.id, cancelled.status) == (made["id"], "cancelled")


async def test_compaction(stack: RunningStack) -> None:
    """At the provider where it has one; a chat has none."""
    responses = stack.openai.responses
    first = await responses.create(model=MODEL, input=say("first"))
    compact = await responses.compact(model=MODEL, input=say(), previous_response_id=first.id)
    assert compact.output[0].type == "compaction"
    assert compact.id.startswith("resp_k1.")
    reply = await send(stack, "POST", "/responses/compact", {"model": MODEL, "input": "x"})
    story = await stack.story(reply.headers["x-request-id"])
    assert (story["prompt_tokens"], story["completion_tokens"]) == (100, 10)
    assert float(story["cost_usd"]) == pytest.approx(100e-6 + 10 * 2e-6)
    with pytest.raises(openai.NotFoundError) as refused:
        await responses.compact(model="plain", input="x")
    assert "'compact'" in refused.value.message


async def test_an_item_is_its_owners(stack: RunningStack) -> None:
    """A reference to an item of an earlier answer reaches the account that made it, from its tenant alone."""
    reply = await send(stack, "POST", "/v1/responses", {"model": MODEL, "input": say()}, x_tenant_id="acme")
    item = reply.json()["output"][0]["id"]
    assert item.startswith("msg_")
    [made] = await stack.calls()
    body = {"model": MODEL, "input": [{"type": "item_reference", "id": item}]}
    for _ in range(4):
        assert (await send(stack, "POST", "/v1/responses", body, x_tenant_id="acme")).status_code == 200
    calls = (await stack.calls())[1:]
    assert {one["headers"]["authorization"] for one in calls} == {made["headers"]["authorization"]}
    [own] = {one["body"]["input"][0]["id"] for one in calls}
    assert own != item
    for one, tenant in ((item, "other"), (own, "acme"), (item + "AAAA", "acme")):
        body["input"] = [{"type": "item_reference", "id": one}]
        reply = await send(stack, "POST", "/v1/responses", body, x_tenant_id=tenant)
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "item_not_found")
        assert reply.json()["error"]["message"] == f"Item with id '{one}' not found."


async def test_what_is_not_the_callers_does_not_exist(stack: RunningStack) -> None:
    """Another tenant's, another key's, forged, of another key's making: one 404 in OpenAI's words."""
    reply = await send(stack, "POST", "/v1/responses", {"model": MODEL, "input": say()}, x_tenant_id="acme")
    made = reply.json()["id"]
    assert (await send(stack, "GET", f"/v1/responses/{made}", x_tenant_id="acme")).status_code == 200
    facts = ["acme", "k", MODEL, "native-pair-a", "resp_x"]
    forged = Sealer([SealingKey("k1", "f" * 40)]).seal("responses.id", json.dumps(facts).encode())
    flipped = made[:-3] + ("A" if made[-3] != "A" else "B") + made[-2:]
    strangers = [
        (made, "other"),
        (made, ""),
        ("resp_" + forged, "acme"),
        (flipped, "acme"),
        ("resp_0", "acme"),
    ]
    for one, tenant in strangers:
        headers = {"x_tenant_id": tenant} if tenant else {}
        for method, end in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
            reply = await send(stack, method, f"/v1/responses/{one}{end}", None, **headers)
            assert reply.status_code == 404, (one, tenant, method, end)
            error = reply.json()["error"]
            assert error["message"] == f"Response with id '{one}' not found."
            assert error["type"] == "invalid_request_error"
        body = {"model": MODEL, "input": say(), "previous_response_id": one}
        reply = await send(stack, "POST", "/v1/responses", body, **headers)
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "previous_response_id")
    assert {one["method"] for one in await asked(stack)} == {"GET"}


@pytest.mark.parametrize(
    ("path", "status", "param"),
    [
        ("?stream=yes", 400, "stream"),
        ("?top=1", 400, "top"),
        ("/input_items?limit=many", 400, "limit"),
        ("/input_items?limit=0", 400, "limit"),
        ("/input_items?limit=101", 400, "limit"),
        ("/input_items?order=up", 400, "order"),
        ("?api-version=2025-04-01", 200, None),
        ("/input_items?limit=1&order=asc", 200, None),
        ("/unknown", 404, None),
    ],
)
async def test_queries_are_checked(stack: RunningStack, path: str, status: int, param: str | None) -> None:
    """Before anything is sent; Azure's version is its clients' own."""
    made = await stack.openai.responses.create(model=MODEL, input=say())
    reply = await send(stack, "GET", f"/v1/responses/{made.id}{path}")
    assert reply.status_code == status
    if param is not None:
        assert reply.json()["error"]["param"] == param


async def test_other_methods_are_told_which(stack: RunningStack) -> None:
    """As on every inference path."""
    for method, path, allowed in (
        ("PUT", "/v1/responses/resp_x", "GET, DELETE"),
        ("GET", "/v1/responses/resp_x/cancel", "POST"),
        ("GET", "/v1/responses/compact", "POST"),
    ):
        reply = await send(stack, method, path)
        assert (reply.status_code, reply.headers["allow"]) == (405, allowed)


async def test_many_at_once_stay_apart(stack: RunningStack) -> None:
    """Each reads what it made."""
    responses = stack.openai.responses
    made = await asyncio.gather(
        *(responses.create(model=MODEL, input=say(key=str(at)), metadata={"at": str(at)}) for at in range(6))
    )
    read = await asyncio.gather(*(responses.retrieve(one.id) for one in made))
    assert [one.metadata for one in read] == [one.metadata for one in made]
