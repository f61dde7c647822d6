"""Edits of images behind a real LiteLLM: forms and links as they were sent, whoever the provider is."""

import base64
import hashlib
import json
from typing import Any
from uuid import uuid4

import httpx
import pytest
from loopback import NO_TLS
from scripted.images_wire import png
from sidecars import KEY, Answer, Json, Sidecar

PATH = "/v1/images/edits"
PARTIAL, COMPLETED = "image_edit.partial_image", "image_edit.completed"
FILES = [
    ("image[]", ("otter-1.png", png(1), "image/png")),
    ("image[]", ("otter-2.webp", b"RIFF....WEBP", "image/webp")),
    ("mask", ("mask.png", png(2), "image/png")),
]
LINK = "data:image/png;base64," + base64.b64encode(png(3)).decode()
Files = list[tuple[str, tuple[str, bytes, str]]]


async def edit(sidecar: Sidecar, model: str, mark: str = "", files: Files = FILES, **fields: Any) -> Answer:
    """Send a form; what is no field of the form tells the provider what to do."""
    known = {"n", "size", "stream", "partial_images", "input_fidelity", "svg[model]", "extra[]", "quality"}
    directive = {name: fields.pop(name) for name in list(fields) if name not in known}
    data = {"model": model, "prompt": f"{mark} {json.dumps(directive)}", **fields}
    headers = {"authorization": f"Bearer {KEY}", "accept-encoding": "identity"}
    async with httpx.AsyncClient(verify=NO_TLS, timeout=40) as client:
        reply = await client.post(sidecar.url + PATH, data=data, files=files, headers=headers)
    return Answer(reply.status_code, reply.headers, reply.text)


def linked(model: str, mark: str = "", *, url: str = LINK, **fields: object) -> Json:
    """A request in JSON."""
    link = {"image_url": url}
    controls: Json = {"cache": {"no-cache": True, "no-store": True}}
    return {
        "model": model,
        "prompt": f"{mark} {{}}",
        "images": [link, link],
        "mask": link,
        **fields,
        **controls,
    }


@pytest.mark.parametrize("group", ["paint", "paint-azure"])
async def test_a_form_reaches_the_provider_as_it_was_sent(sidecar: Sidecar, group: str) -> None:
    """Every field, new ones too, and every file under its own name and type; so does the answer."""
    fields: Json = {
        "n": "2",
        "size": "1536x1024",
        "input_fidelity": "high",
        "svg[model]": "m",
        "extra[]": ["a", "b"],
    }
    answer = await edit(sidecar, group, mark := str(uuid4()), do="ok", **fields)
    assert answer.status == 200, answer.text
    [call] = await sidecar.provider.calls(mark)
    assert call["path"].endswith(PATH if group == "paint" else "/deployments/gpt-image-1/images/edits")
    body: Json = call["body"]
    assert {name: body[name] for name in ("n", "size", "input_fidelity", "svg[model]", "extra")} == {
        "n": "2", "size": "1536x1024", "input_fidelity": "high", "svg[model]": "m", "extra": ["a", "b"],
    }  # fmt: skip
    assert body.get("model") == ("gpt-image-1.5" if group == "paint" else body.get("model"))
    assert body["files"] == [
        {
            "name": name, "filename": filename, "type": kind, "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        for name, (filename, data, kind) in FILES
    ]  # fmt: skip
    assert answer.json["provider_addition"] is True
    assert len(answer.json["data"]) == 2
    stated = json.loads(answer.headers["x-llmp-usage"])
    assert (stated["images"], stated["completion_tokens"]) == (2, 23)
    assert answer.headers["x-litellm-model-id"] == group


@pytest.mark.parametrize("group", ["paint", "paint-azure"])
async def test_an_edit_is_streamed(sidecar: Sidecar, group: str) -> None:
    """As the provider streams it."""
    answer = await edit(sidecar, group, do="ok", stream="true", partial_images="2")
    assert answer.status == 200, answer.text
    kinds = [one["type"] for one in answer.events if isinstance(one, dict)]
    assert kinds == [PARTIAL, PARTIAL, COMPLETED]
    assert ": llmp-usage {" in answer.text


@pytest.mark.parametrize("stream", [False, True])
async def test_links_reach_the_provider_in_json(sidecar: Sidecar, *, stream: bool) -> None:
    """LiteLLM would send a form without pictures."""
    body = linked(
        "paint", mark := str(uuid4()), url="https://images.example/a.png", stream=stream, new={"a": 1}
    )
    answer = await sidecar.post(PATH, body)
    assert answer.status == 200, answer.text
    [call] = await sidecar.provider.calls(mark)
    sent = {name: value for name, value in body.items() if name != "cache"}
    assert call["body"] == sent | {"model": "gpt-image-1.5"}
    assert (COMPLETED in answer.text) is stream


async def test_a_provider_of_another_format_gets_the_pictures(sidecar: Sidecar) -> None:
    """From a form, or from data links; it cannot follow others."""
    for answer in (
        await edit(sidecar, "paint-gemini", mark := str(uuid4()), files=FILES[:1], do="ok"),
        await sidecar.post(PATH, linked("paint-gemini", mark, mask=None)),
    ):
        assert answer.status == 200, answer.text
        assert base64.b64decode(answer.json["data"][0]["b64_json"]).startswith(b"\x89PNG")
    first, second = await sidecar.provider.calls(mark)
    assert base64.b64encode(png(1)).decode() in json.dumps(first["body"])
    assert base64.b64encode(png(3)).decode() in json.dumps(second["body"])
    refused = await sidecar.post(PATH, linked("paint-gemini", url="https://images.example/a.png", mask=None))
    assert (refused.status, "data:" in refused.text) == (400, True)
    masked = await sidecar.post(PATH, linked("paint-gemini"))
    assert (masked.status, "mask" in masked.text) == (400, True)


async def test_a_streamed_edit_elsewhere_is_one_event(sidecar: Sidecar) -> None:
    """Named for an edit."""
    answer = await edit(sidecar, "paint-gemini", files=FILES[:1], do="ok", stream="true")
    assert [one["type"] for one in answer.events if isinstance(one, dict)] == [COMPLETED]


async def test_an_edit_is_retried_with_its_files(sidecar: Sidecar) -> None:
    """Each attempt reads them from the beginning."""
    mark = str(uuid4())
    answer = await edit(sidecar, "paint", mark, do="flaky", key=mark, fails=1, status=500)
    assert answer.status == 200, answer.text
    first, second = await sidecar.provider.calls(mark)
    assert first["body"]["files"] == second["body"]["files"]
    assert second["body"]["files"][0]["size"] == len(png(1))


async def test_a_large_file_passes(sidecar: Sidecar) -> None:
    """From the disk."""
    data = png().ljust(20 * 10**6, b"\0")
    answer = await edit(
        sidecar, "paint", mark := str(uuid4()), files=[("image", ("a.png", data, "image/png"))]
    )
    assert answer.status == 200, answer.text
    [call] = await sidecar.provider.calls(mark)
    assert call["body"]["files"][0]["sha256"] == hashlib.sha256(data).hexdigest()
