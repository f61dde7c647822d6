"""Forms with files, read in any chunking: what is kept, and what is rejected with the part's name."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from llm_proxy.dialects.form import Form, form_body
from llm_proxy.edge.form import MAX_FIELD_BYTES, MAX_PARTS, read_form
from llm_proxy.edge.request import ClientDisconnected
from llm_proxy.endpoints import FilePart
from llm_proxy.errors import APIError, BodyTooLarge, Overloaded
from llm_proxy.uploads import HEAD_BYTES, UploadSpace

KIND = b"multipart/form-data; boundary=cut"
AUDIO = (FilePart("file"),)
IMAGES = (FilePart("image", max_count=3), FilePart("mask", required=False))


def part(name: str, data: bytes, more: str = "", head: str = "") -> bytes:
    """One part; `more` follows its name."""
    return (
        f'--cut\r\nContent-Disposition: form-data; name="{name}"{more}\r\n{head}\r\n'.encode()
        + data
        + b"\r\n"
    )


def upload(name: str, data: bytes, filename: str = "a.wav", kind: str = "audio/wav") -> bytes:
    """A part with a file."""
    return part(name, data, f'; filename="{filename}"', f"Content-Type: {kind}\r\n")


END = b"--cut--\r\n"
GOOD = upload("file", b"RIFF") + part("model", b"w") + END


@pytest.fixture
def space(tmp_path: Path) -> Iterator[UploadSpace]:
    """Room for a megabyte; it is free again at the end, and nothing has a name there."""
    folder = tmp_path / "uploads"
    found = UploadSpace(folder, 2**20 + 2 * MAX_FIELD_BYTES)
    yield found
    assert found.used_bytes == 0
    assert not folder.exists() or not list(folder.iterdir())


def read(
    space: UploadSpace,
    raw: bytes,
    takes: tuple[FilePart, ...] = AUDIO,
    *,
    step: int = 10**9,
    headers: dict[bytes, bytes] | None = None,
    max_bytes: int = 10**7,
) -> tuple[Form, dict[str, bytes]]:
    """The form, and the bytes of its files by filename."""
    chunks = [raw[at : at + step] for at in range(0, len(raw), step)]
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": one, "more_body": True} for one in chunks
    ]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def run() -> tuple[Form, dict[str, bytes]]:
        with space.open() as uploads:
            form = await read_form(
                receive,
                {b"content-type": KIND, **(headers or {})},
                takes,
                uploads,
                max_bytes=max_bytes,
                on_progress=lambda _size: None,
            )
            kept = {one.filename: b"".join([block async for block in one.blocks()]) for one in form.files}
        return form, kept

    return asyncio.run(run())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    data=st.binary(max_size=200).map(lambda one: one.replace(b"\r\n--cut", b"")),
    step=st.integers(1, 80),
    tail=st.sampled_from([b"", b"\r\n--cu", b"\r\n--cutter", b"\r", b"--cut--"]),
)
def test_a_file_is_kept_as_it_was_sent_in_any_chunking(
    space: UploadSpace, data: bytes, step: int, tail: bytes
) -> None:
    """What looks like a boundary but is none belongs to the file; fields may stand before and after it."""
    assume(not (data.endswith(b"\r\n") and tail == b"--cut--"))
    raw = part("language", b"de") + upload("file", data + tail) + part("model", "wé".encode()) + END
    form, kept = read(space, raw, step=step)
    assert kept == {"a.wav": data + tail}
    assert form.fields == (("language", "de"), ("model", "wé"))
    assert (form.files[0].size_bytes, form.files[0].head) == (len(data + tail), (data + tail)[:HEAD_BYTES])
    assert (form.files[0].name, form.files[0].content_type) == ("file", "audio/wav")


def test_several_files_of_one_name(space: UploadSpace) -> None:
    """In their order, with and without brackets; a mask beside them."""
    raw = upload("image[]", b"1", "1.png") + upload("mask", b"m", "m.png") + upload("image[]", b"2", "2.png")
    form, kept = read(space, raw + part("prompt", b"x") + END, IMAGES)
    assert [(one.name, one.filename) for one in form.files] == [
        ("image[]", "1.png"), ("mask", "m.png"), ("image[]", "2.png"),
    ]  # fmt: skip
    assert kept == {"1.png": b"1", "m.png": b"m", "2.png": b"2"}


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("a.mp3", "a.mp3"),
        ("../../etc/passwd", "passwd"),
        ("C:\\\\fakepath\\\\a b.MP3", "a_b.MP3"),
        ("a%0D%0AX-Evil: 1.wav", "a__X-Evil__1.wav"),
        ('a\\"; name=\\"model.wav', "a___name__model.wav"),
        ("..", "file"),
        ("", "file"),
        (".htaccess", "htaccess"),
        ("é" * 300 + ".flac", "_" * 95 + ".flac"),
    ],
)
def test_a_filename_is_made_safe(space: UploadSpace, written: str, kept: str) -> None:
    """No path, no quote, no line end; its ending stays, by which providers know the format."""
    form, _ = read(space, upload("file", b"x", written) + part("model", b"m") + END)
    assert form.files[0].filename == kept


def test_a_filename_in_rfc_5987_s_form_wins(space: UploadSpace) -> None:
    """As older clients send names that are not ASCII."""
    raw = part(
        "file", b"x", "; filename=\"a.wav\"; filename*=utf-8''b%20c.mp3", "Content-Type: audio/mpeg\r\n"
    )
    form, _ = read(space, raw + END)
    assert form.files[0].filename == "b_c.mp3"


REJECTED: tuple[tuple[str, bytes, str | None], ...] = (
    ("no last boundary", GOOD.removesuffix(END), None),
    ("another boundary", GOOD.replace(b"--cut", b"--top"), None),
    ("text before the first boundary", b"hello\r\n" + GOOD, None),
    ("nothing", b"", None),
    ("no parts", END, "file"),
    ("no file", part("model", b"m") + END, "file"),
    ("two files", upload("file", b"1") + GOOD, "file"),
    ("two files by brackets", upload("file[]", b"1") + GOOD, "file[]"),
    ("a file that nothing takes", upload("image", b"1") + GOOD, "image"),
    ("a file as text", part("file", b"x") + END, "file"),
    ("a model as a file", upload("model", b"m") + GOOD, "model"),
    ("no name", part("", b"x") + GOOD, None),
    ("two names", part("a", b"x", '; name="b"') + GOOD, None),
    ("a name in RFC 5987's form too", part("a", b"x", "; name*=utf-8''model") + GOOD, None),
    ("two filenames", part("file", b"x", '; filename="a"; filename="b"') + END, None),
    ("no disposition", b"--cut\r\nContent-Type: text/plain\r\n\r\nx\r\n" + GOOD, None),
    ("two dispositions", part("a", b"x", head='Content-Disposition: form-data; name="b"\r\n') + GOOD, None),
    ("an attachment", GOOD.replace(b'form-data; name="model"', b'attachment; name="model"'), None),
    ("a quote without its end", GOOD.replace(b'name="model"', b'name="model'), None),
    ("what follows a quote", GOOD.replace(b'name="model"', b'name="model"x'), None),
    ("a name that is no UTF-8", GOOD.replace(b'name="model"', b'name="\xff"'), None),
    ("a value that is no UTF-8", part("model", b"\xff") + GOOD, "model"),
    ("base64", part("model", b"bQ==", head="Content-Transfer-Encoding: base64\r\n") + GOOD, "model"),
    ("a compressed part", part("model", b"x", head="Content-Encoding: gzip\r\n") + GOOD, "model"),
    ("a multipart inside", upload("file", b"x", kind="multipart/mixed; boundary=in") + END, "file"),
    ("no media type", upload("file", b"x", kind="evil") + END, "file"),
    ("a control character", part("a", b"x", head="X-A: \x01\r\n") + GOOD, None),
    ("a folded head", part("a", b"x", head="X-A: 1\r\n folded\r\n") + GOOD, None),
    ("too many heads", part("a", b"x", head="".join(f"X-{n}: 1\r\n" for n in range(9))) + GOOD, None),
    ("a long head", part("a", b"x", head=f"X-A: {'1' * 5000}\r\n") + GOOD, None),
    ("thousands of parts", b"".join(part(f"a{n}", b"") for n in range(MAX_PARTS)) + GOOD, None),
)  # fmt: skip


@pytest.mark.parametrize(("raw", "param"), [one[1:] for one in REJECTED], ids=[one[0] for one in REJECTED])
@pytest.mark.parametrize("step", [10**9, 1])
def test_a_form_with_two_readings_is_rejected(
    space: UploadSpace, raw: bytes, param: str | None, step: int
) -> None:
    """As 400, naming the part where there is one; nothing of it stays on the disk."""
    with pytest.raises(APIError) as caught:
        read(space, raw, step=step)
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (b"multipart/form-data", 400),
        (b"multipart/form-data; boundary=", 400),
        (b"multipart/form-data; boundary=cut; boundary=other", 400),
        (b'multipart/form-data; boundary="cut', 400),
        (b"multipart/form-data; boundary=" + b"c" * 71, 400),
        (b'multipart/form-data; boundary="c\\\nut"', 400),
        (b"multipart/form-data boundary=cut", 415),
        (b"multipart/mixed; boundary=cut", 415),
        (b"application/json", 415),
        (b"application/x-www-form-urlencoded", 415),
        (b"", 415),
    ],
)
def test_a_head_without_one_boundary_is_rejected(space: UploadSpace, kind: bytes, status: int) -> None:
    """400 for a boundary that is none, 415 for another kind of body."""
    with pytest.raises(APIError) as caught:
        read(space, GOOD, headers={b"content-type": kind})
    assert caught.value.status == status


@pytest.mark.parametrize(
    "kind", [b'multipart/form-data; boundary="cut"', b"Multipart/Form-Data;charset=utf-8;  BOUNDARY=cut"]
)
def test_a_boundary_may_be_quoted(space: UploadSpace, kind: bytes) -> None:
    """And stand beside other parameters, in any case."""
    assert read(space, GOOD + b"an epilogue", headers={b"content-type": kind})[1] == {"a.wav": b"RIFF"}


def test_a_compressed_form_is_rejected(space: UploadSpace) -> None:
    """415: what a form decompresses to is not known before it is read."""
    with pytest.raises(APIError) as caught:
        read(space, GOOD, headers={b"content-encoding": b"gzip"})
    assert caught.value.status == 415


def test_sizes_are_bounded(space: UploadSpace) -> None:
    """By `Content-Length` before anything is read, by what comes without one, and for all text together."""
    with pytest.raises(BodyTooLarge):
        read(space, b"", headers={b"content-length": b"101"}, max_bytes=100)
    with pytest.raises(BodyTooLarge):
        read(space, GOOD, max_bytes=len(GOOD) - 1)
    text = part("prompt", b"x" * (MAX_FIELD_BYTES // 2 + 1))
    with pytest.raises(BodyTooLarge):
        read(space, text + text.replace(b"prompt", b"user") + GOOD)
    with pytest.raises(Overloaded):
        read(space, b"", headers={b"content-length": b"%d" % (4 * 2**20)})
    with pytest.raises(Overloaded):
        read(space, upload("file", b"x" * (4 * 2**20)) + END)


def test_a_caller_who_leaves_leaves_nothing(space: UploadSpace) -> None:
    """The fixture sees that no room is taken and no file has a name."""

    async def run() -> None:
        messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": GOOD[:50], "more_body": True},
            {"type": "http.disconnect"},
        ]

        async def receive() -> dict[str, Any]:
            return messages.pop(0)

        with space.open() as uploads:
            await read_form(
                receive,
                {b"content-type": KIND},
                AUDIO,
                uploads,
                max_bytes=10**6,
                on_progress=lambda _size: None,
            )

    with pytest.raises(ClientDisconnected):
        asyncio.run(run())


def test_fields_are_typed_as_the_schema_says() -> None:
    """Text stays text; `[]` makes arrays, `[key]` objects; what is none of its type is named."""
    fields = (
        ("model", "m"), ("temperature", "0.2"), ("stream", "true"), ("include[]", "logprobs"), ("n", "2"),
        ("chunking_strategy[type]", "server_vad"), ("chunking_strategy[threshold]", "0.5"), ("prompt", ""),
        ("svg[model]", "x"), ("svg[reasoning][effort]", "none"), ("svg[reasoning][n][]", "1"),
    )  # fmt: skip
    assert form_body(Form(fields, (), 0)) == {
        "model": "m", "temperature": 0.2, "stream": True, "include": ["logprobs"], "n": 2, "prompt": None,
        "chunking_strategy": {"type": "server_vad", "threshold": "0.5"},
        "svg": {"model": "x", "reasoning": {"effort": "none", "n": ["1"]}},
    }  # fmt: skip
    for wrong in (
        [("model", "a"), ("model", "b")],
        [("a", "x"), ("a[]", "y")],
        [("a[b]", "x"), ("a[b]", "y")],
        [("a[]", "x"), ("a[b]", "y")],
        [("a[b][c]", "x"), ("a[b]", "y")],
        [("a[b]", "x"), ("a[b][c]", "y")],
        [("a", "x"), ("a[b][c]", "y")],
        [("a[b][c]", "x"), ("a[b][]", "y")],
        [("a[][b]", "x")],
        [("a[b]" + "[c]" * 8, "x")],
        [('a"', "x")],
        [("temperature", "hot")],
        [("stream", "yes")],
        [("n", "1.5")],
    ):
        with pytest.raises(APIError) as caught:
            form_body(Form(tuple(wrong), (), 0))
        assert caught.value.status == 400
        assert caught.value.param
