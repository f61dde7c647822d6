"""Responses that the gateway itself keeps, of models whose providers keep none, with OpenAI's SDK."""

import hashlib
import json
from typing import Any

import asyncpg
import httpx
import openai
import pytest
from loopback import NO_TLS
from openai.types.responses import Response
from running_stack import Json, RunningStack, script

KEEPER = {"x-tenant-id": "keeper"}
MODEL = "plain"


@pytest.fixture
def sdk(stack: RunningStack) -> openai.AsyncOpenAI:
    """The SDK of a tenant that may store."""
    return stack.openai.with_options(default_headers=KEEPER)


def say(text: str) -> str:
    """An input that the provider answers."""
    return f"{text} {script(do='ok')}"


async def send(
    stack: RunningStack, method: str, path: str, body: Json | None = None, **named: str
) -> httpx.Response:
    """One request, by default of the tenant that may store."""
    headers = stack.auth | (named or KEEPER)
    async with httpx.AsyncClient(verify=NO_TLS, timeout=30) as client:
        return await client.request(method, stack.url + path, headers=headers, json=body)


async def streamed(sdk: openai.AsyncOpenAI, **asked: Any) -> tuple[Response, set[str]]:
    """The response that a stream ends with, and the ids its events name."""
    stream = await sdk.responses.create(model=MODEL, stream=True, **asked)
    events: list[Any] = [event async for event in stream]
    return events[-1].response, {event.response.id for event in events if hasattr(event, "response")}


async def test_a_conversation_goes_on(stack: RunningStack, sdk: openai.AsyncOpenAI) -> None:
    """Whole and streamed: the model gets all that was said; each response is there the moment it is told."""
    first = await sdk.responses.create(model=MODEL, input=say("first"), instructions="Be brief.")
    assert first.model_dump()["store"] is True
    read = await sdk.responses.retrieve(first.id)
    assert read == first
    second, ids = await streamed(sdk, input=say("second"), previous_response_id=first.id)
    assert ids == {second.id}
    assert second.previous_response_id == first.id
    assert (await sdk.responses.retrieve(second.id)).output_text == second.output_text
    await sdk.responses.create(model=MODEL, input=say("third"), previous_response_id=second.id)
    *_, sent = await stack.calls()
    said = [(one["role"], one["content"]) for one in sent["body"]["messages"]]
    assert [role for role, _ in said] == ["user", "assistant", "user", "assistant", "user"]
    assert [text.split()[0] for role, text in said if role == "user"] == ["first", "second", "third"]
    assert said[1][1] == first.output_text


async def test_what_it_was_made_from_is_listed(stack: RunningStack, sdk: openai.AsyncOpenAI) -> None:
    """By pages, the latest first, or the other way."""
    items: Any = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": say("three")},
    ]
    made = await sdk.responses.create(model=MODEL, input=items)
    page = await sdk.responses.input_items.list(made.id, limit=2, order="asc")
    assert (len(page.data), page.has_more) == (2, True)
    assert [str(one.id)[:4] for one in page.data] == ["mes_", "mes_"]
    found = [one async for one in await sdk.responses.input_items.list(made.id, limit=2, order="asc")]
    assert ["one" in str(found[0]), "two" in str(found[1]), "three" in str(found[2])] == [True] * 3
    for query in ("after=x", "before=x", "limit=0"):
        reply = await send(stack, "GET", f"/v1/responses/{made.id}/input_items?{query}")
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, query[:-2])
    latest = await sdk.responses.input_items.list(made.id)
    assert "three" in str(latest.data[0])


async def test_deleted_is_gone(stack: RunningStack, sdk: openai.AsyncOpenAI) -> None:
    """For everything; what went on from it before stays."""
    first = await sdk.responses.create(model=MODEL, input=say("first"))
    second = await sdk.responses.create(model=MODEL, input=say("second"), previous_response_id=first.id)
    with pytest.raises(openai.BadRequestError):
        await sdk.responses.cancel(first.id)
    await sdk.responses.delete(first.id)
    for method, end in (("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")):
        reply = await send(stack, method, f"/v1/responses/{first.id}{end}")
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "response_not_found")
    with pytest.raises(openai.BadRequestError):
        await sdk.responses.create(model=MODEL, input=say("x"), previous_response_id=first.id)
    await sdk.responses.create(model=MODEL, input=say("third"), previous_response_id=second.id)


async def test_only_its_tenant_has_it(stack: RunningStack, sdk: openai.AsyncOpenAI) -> None:
    """Another tenant that may store too finds nothing, and goes on from nothing."""
    made = await sdk.responses.create(model=MODEL, input=say("secret"))
    other = {"x-tenant-id": "other-keeper"}
    for method, end in (("GET", ""), ("DELETE", ""), ("GET", "/input_items")):
        assert (await send(stack, method, f"/v1/responses/{made.id}{end}", None, **other)).status_code == 404
    calls = len(await stack.calls())
    body = {"model": MODEL, "input": say("x"), "previous_response_id": made.id}
    reply = await send(stack, "POST", "/v1/responses", body, **other)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "previous_response_id")
    assert (await stack.story(reply.headers["x-request-id"]))["model"] == MODEL
    assert len(await stack.calls()) == calls
    assert (await sdk.responses.retrieve(made.id)).id == made.id


async def test_nothing_is_kept_unasked(
    stack: RunningStack, sdk: openai.AsyncOpenAI, postgres_url: str
) -> None:
    """Not for a tenant that is not named, nor with `store: false`; and neither says that it is."""
    connection = await asyncpg.connect(postgres_url)
    try:
        before = await connection.fetchval("SELECT count(*) FROM stored_responses")
        unasked = await sdk.responses.create(model=MODEL, input=say("x"), store=False)
        unnamed = await stack.openai.responses.create(model=MODEL, input=say("x"))
        assert [one.model_dump()["store"] for one in (unasked, unnamed)] == [False, False]
        assert await connection.fetchval("SELECT count(*) FROM stored_responses") == before
        with pytest.raises(openai.BadRequestError):
            await stack.openai.responses.create(model=MODEL, input="x", previous_response_id=unnamed.id)
    finally:
        await connection.close()


async def test_the_database_opens_nothing(sdk: openai.AsyncOpenAI, postgres_url: str) -> None:
    """A row has neither the text, nor the id, nor the person's name."""
    await sdk.responses.create(model=MODEL, input=say("canary-of-a-prompt"), user="ann-the-person")
    connection = await asyncpg.connect(postgres_url)
    try:
        rows = await connection.fetch("SELECT * FROM stored_responses ORDER BY created_at DESC LIMIT 3")
        told = str([dict(row) for row in rows])
        assert "canary-of-a-prompt" not in told
        assert "ann-the-person" not in told
        assert hashlib.sha256(b"keeper\nann-the-person").digest() in {row["person"] for row in rows}
    finally:
        await connection.close()


async def test_a_person_takes_theirs_along(stack: RunningStack, sdk: openai.AsyncOpenAI) -> None:
    """An erasure deletes what the person stored, and nobody else's."""
    gone = await sdk.responses.create(model=MODEL, input=say("x"), user="leaving")
    stays = await sdk.responses.create(model=MODEL, input=say("x"), user="staying")
    admin = {"Authorization": f"Bearer {stack.admin_key}"}
    async with httpx.AsyncClient(verify=NO_TLS, timeout=60) as client:
        reply = await client.post(
            f"{stack.url}/admin/erasures", headers=admin, json={"tenant": "keeper", "user": "leaving"}
        )
        assert reply.status_code < 300, reply.text
    with pytest.raises(openai.NotFoundError):
        await sdk.responses.retrieve(gone.id)
    assert (await sdk.responses.retrieve(stays.id)).id == stays.id


async def test_what_is_too_old_is_gone(sdk: openai.AsyncOpenAI, postgres_url: str) -> None:
    """Before upkeep deletes it, too."""
    made = await sdk.responses.create(model=MODEL, input=say("old"), user="old-one")
    connection = await asyncpg.connect(postgres_url)
    try:
        person = hashlib.sha256(b"keeper\nold-one").digest()
        older = "UPDATE stored_responses SET created_at = now() - interval '31 days' WHERE person = $1"
        assert await connection.execute(older, person) == "UPDATE 1"
    finally:
        await connection.close()
    with pytest.raises(openai.NotFoundError):
        await sdk.responses.retrieve(made.id)


async def test_what_cannot_be_kept_is_not_said_to_be(sdk: openai.AsyncOpenAI, postgres_url: str) -> None:
    """The answer is given, and says that it is not stored; without its database nothing goes on."""
    first = await sdk.responses.create(model=MODEL, input=say("first"))
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("ALTER TABLE stored_responses RENAME TO stored_elsewhere")
    try:
        whole = await sdk.responses.create(model=MODEL, input=say("x"))
        last, _ = await streamed(sdk, input=say("x"))
        assert [one.model_dump()["store"] for one in (whole, last)] == [False, False]
        assert [one.status for one in (whole, last)] == ["completed", "completed"]
        with pytest.raises(openai.InternalServerError) as away:
            await sdk.responses.create(model=MODEL, input=say("x"), previous_response_id=first.id)
        assert away.value.status_code == 503
    finally:
        await connection.execute("ALTER TABLE stored_elsewhere RENAME TO stored_responses")
        await connection.close()
    for one in (whole, last):
        with pytest.raises(openai.NotFoundError):
            await sdk.responses.retrieve(one.id)
    assert (await sdk.responses.retrieve(first.id)).id == first.id


async def test_a_stream_that_breaks_is_kept_as_failed(stack: RunningStack) -> None:
    """What its last event says is what there is."""
    body = {"model": MODEL, "input": "x " + script(do="cut", after=3), "stream": True}
    reply = await send(stack, "POST", "/v1/responses", body)
    last = json.loads(reply.text.rstrip().rpartition("data: ")[2])
    assert last["type"] == "response.failed"
    kept = await send(stack, "GET", f"/v1/responses/{last['response']['id']}")
    assert (kept.status_code, kept.json()["status"]) == (200, "failed")
    replayed = await send(stack, "GET", f"/v1/responses/{last['response']['id']}?stream=true")
    assert (replayed.status_code, replayed.json()["error"]["param"]) == (400, "stream")
