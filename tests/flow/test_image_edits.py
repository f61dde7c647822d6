"""Edits of images from outside: forms of several images and a mask, links in JSON, whole and streamed."""

import asyncio
import base64
import hashlib
import json
from typing import Any

import httpx
import pytest
from loopback import NO_TLS
from running_stack import Json, RunningStack, script
from scripted.images_wire import png

PATH = "/v1/images/edits"
COMPLETED, PARTIAL = "image_edit.completed", "image_edit.partial_image"
FILES = [
    ("image[]", ("one.png", png(1), "image/png")),
    ("image[]", ("two.png", png(2), "image/png")),
    ("mask", ("mask.png", png(3), "image/png")),
]
LINK = {"image_url": "data:image/png;base64," + base64.b64encode(png(4)).decode()}


async def send(stack: RunningStack, path: str = PATH, files: Any = FILES, **fields: Any) -> httpx.Response:
    """A form."""
    data = {"model": "painter", "prompt": "a hat"} | fields
    async with httpx.AsyncClient(verify=NO_TLS, timeout=30) as client:
        return await client.post(stack.url + path, data=data, files=files, headers=stack.auth)


async def link(stack: RunningStack, path: str = PATH, **fields: object) -> httpx.Response:
    """The same in JSON."""
    body = {"model": "painter", "prompt": "a hat", "images": [LINK]} | fields
    sent = {name: value for name, value in body.items() if value is not ...}
    async with httpx.AsyncClient(verify=NO_TLS, timeout=30) as client:
        return await client.post(stack.url + path, json=sent, headers=stack.auth)


@pytest.mark.parametrize(
    "path", [PATH, "/images/edits", "/openai/v1/images/edits", "/openai/deployments/painter/images/edits"]
)
async def test_images_are_edited_at_every_path(stack: RunningStack, path: str) -> None:
    """The provider gets every file and field; the record has tokens, images and cost."""
    used = {"prompt_tokens": 300, "image_tokens": 200, "completion_tokens": 4160}
    answer = await send(
        stack, path, prompt=script(do="ok", **used), n="2", input_fidelity="high", new_field="x"
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["provider_addition"] is True
    [call] = await stack.calls()
    files = [(one["name"], one["sha256"]) for one in call["body"]["files"]]
    assert files == [(name, hashlib.sha256(data).hexdigest()) for name, (_, data, _) in FILES]
    assert (call["body"]["input_fidelity"], call["body"]["new_field"]) == ("high", "x")
    story = await stack.story(answer.headers["x-request-id"])
    assert (story["door"], story["outcome"], story["images"]) == ("images.edits", "ok", 2)
    assert float(story["cost_usd"]) == pytest.approx(100 * 5e-06 + 200 * 8e-06 + 4160 * 3.2e-05)


async def test_the_sdk_edits_images_whole_and_streamed(stack: RunningStack) -> None:
    """One image, or several and a mask."""
    one = await stack.openai.images.edit(model="painter", prompt="a hat", image=("a.png", png(), "image/png"))
    assert one.data is not None
    assert one.data[0].b64_json is not None
    stream = await stack.openai.images.edit(
        model="painter", prompt="a hat", image=[png(1), png(2)], mask=png(3), stream=True, partial_images=2,
        background="opaque", quality="low", size="1024x1024", output_format="png", user="u",
        extra_body={"svg": {"model": "x", "reasoning": {"effort": "none"}}},
    )  # fmt: skip
    assert [event.type async for event in stream] == [PARTIAL, PARTIAL, COMPLETED]
    first, second = await stack.calls()
    assert [file["name"] for file in first["body"]["files"]] == ["image"]
    assert [file["name"] for file in second["body"]["files"]] == ["image[]", "image[]", "mask"]
    assert (second["body"]["stream"], second["body"]["partial_images"]) == ("true", "2")
    svg = {name: value for name, value in second["body"].items() if name.startswith("svg")}
    assert svg == {"svg[model]": "x", "svg[reasoning][effort]": "none"}


@pytest.mark.parametrize("stream", [False, True])
async def test_images_may_be_links(stack: RunningStack, *, stream: bool) -> None:
    """In JSON, as OpenAI has it."""
    answer = await link(stack, mask=LINK, stream=stream, partial_images=1, n=1, new_field={"a": 1})
    assert answer.status_code == 200, answer.text
    assert (COMPLETED in answer.text) is stream
    [call] = await stack.calls()
    assert (call["body"]["images"], call["body"]["mask"], call["body"]["new_field"]) == (
        [LINK],
        LINK,
        {"a": 1},
    )
    assert not call["body"].keys() & {"cache", "disable_fallbacks", "extra_body", "metadata"}
    story = await stack.story(answer.headers["x-request-id"])
    assert (story["door"], story["images"]) == ("images.edits", 1)


@pytest.mark.parametrize(
    ("fields", "files", "param", "code"),
    [
        ({}, FILES[2:], "image", "missing_required_parameter"),
        ({"prompt": ""}, FILES, "prompt", "missing_required_parameter"),
        ({"n": "two"}, FILES, "n", "invalid_type"),
        ({"n": "11"}, FILES, "n", "integer_above_max_value"),
        ({"partial_images": "9"}, FILES, "partial_images", "integer_above_max_value"),
        ({}, [*FILES, FILES[2]], "mask", "invalid_value"),
        ({}, FILES[:1] * 17, "image", "invalid_value"),
        ({}, [*FILES, ("file", ("a", b"a", "text/plain"))], "file", "unknown_parameter"),
        ({"mask": "text"}, FILES[:2], "mask", "invalid_type"),
        ({"images": "text"}, FILES[:2], "images", "invalid_type"),
        ({"api_base": "http://evil"}, FILES, "api_base", "unknown_parameter"),
        ({"model": "ranker"}, FILES, "model", "model_not_supported"),
    ],
)
async def test_a_wrong_part_is_named(
    stack: RunningStack, fields: Json, files: Any, param: str, code: str
) -> None:
    """No provider hears of it."""
    answer = await send(stack, files=files, **fields)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert await stack.calls() == []


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"images": ...}, "images", "missing_required_parameter"),
        ({"images": []}, "images", "empty_array"),
        ({"images": ["data:"]}, "images[0]", "invalid_type"),
        ({"images": [LINK] * 17}, "images", "array_above_max_length"),
        ({"images": [{"image_url": "http://169.254.169.254/a.png"}]}, "images[0].image_url", "invalid_url"),
        ({"mask": {"image_url": "http://localhost/a.png"}}, "mask.image_url", "invalid_url"),
        ({"mask": "a"}, "mask", "invalid_type"),
    ],
)
async def test_a_wrong_link_is_named(stack: RunningStack, change: Json, param: str, code: str) -> None:
    """No provider hears of it."""
    answer = await link(stack, **change)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert await stack.calls() == []


async def test_another_body_is_refused(stack: RunningStack) -> None:
    """Neither a form nor JSON."""
    async with httpx.AsyncClient(verify=NO_TLS) as client:
        headers = stack.auth | {"content-type": "text/plain"}
        answer = await client.post(stack.url + PATH, content=b"{}", headers=headers)
    assert answer.status_code == 415


@pytest.mark.parametrize(
    ("do", "status", "code"),
    [("policy", 400, "content_policy_violation"), ("status-500", 502, "provider_error"), ("drop", 502, None)],
)
async def test_a_failure_is_told_as_everywhere(
    stack: RunningStack, do: str, status: int, code: str | None
) -> None:
    """Asked once; no key and no address."""
    answer = await send(stack, prompt=script(do=do))
    assert answer.status_code == status, answer.text
    assert code in (None, answer.json()["error"]["code"])
    assert "127.0.0.1" not in answer.text
    assert len(await stack.calls()) == 1


async def test_a_broken_stream_ends_in_one_error_event(stack: RunningStack) -> None:
    """And is not made again."""
    answer = await send(stack, prompt=script(do="eof", after=1), stream="true", partial_images="2")
    frames = answer.text.split("\n\n")[:-1]
    assert [one.partition("\n")[0] for one in frames] == [f"event: {PARTIAL}", "event: error"]
    assert json.loads(frames[1].partition("data: ")[2])["error"]["code"] == "upstream_stream_cut"
    assert len(await stack.calls()) == 1


async def test_a_caller_who_leaves_cancels_the_provider_s_call(stack: RunningStack) -> None:
    """The files are gone with it."""
    data = {"model": "painter", "prompt": script(do="slow-first", first_ms=20000)}
    async with httpx.AsyncClient(verify=NO_TLS) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(stack.url + PATH, data=data, files=FILES, headers=stack.auth, timeout=1)
    async with asyncio.timeout(10):
        while (await stack.calls())[-1]["client_left_s"] is None:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0.05)


async def test_an_edit_is_explained_without_its_files(stack: RunningStack) -> None:
    """By its fields, as JSON."""
    async with httpx.AsyncClient(verify=NO_TLS) as client:
        body = {"model": "painter", "prompt": "a hat", "n": 2}
        answer = await client.post(f"{stack.url}/v1/explain?path={PATH}", json=body, headers=stack.auth)
    assert answer.status_code == 200, answer.text
    assert answer.json()["verdict"] == "admitted", answer.text
