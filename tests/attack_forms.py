"""Forms that strangers send to an endpoint with files, as bytes.

The families follow what was found in readers of forms: two readings of a boundary, a name or a head, content
that grows when it is read, and counts, lengths and types that are not what they say.
"""

import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from raw_requests import AUTH, INNER

CANARY = b"canary-of-the-attacker"
MODEL = b"p/whisper-1"
KIND = b"multipart/form-data; boundary=cut"
END = b"--cut--\r\n"
BAD = frozenset({400})


class FormAttack(NamedTuple):
    """One form.

    Attributes:
        raw: The whole request.
        expected: The statuses that are right; 0 is a closed connection.
        passes: It is a good request all the same.
    """

    name: str
    raw: bytes
    expected: frozenset[int] = BAD
    passes: bool = False


def forms(path: bytes, file: bytes) -> Iterator[FormAttack]:
    """All of them, at an endpoint that needs a file of that name."""
    readings = (*_readings(file), *_heads(file))
    yield from (FormAttack(name, _request(path, body)) for name, body in readings)
    yield from (
        FormAttack(f"Content-Type: {kind!r}", *_typed(path, file, kind, status)) for kind, status in KINDS
    )
    yield from _passing(path, file)
    yield from _sizes(path, file)
    for packed in (gzip.compress(good(file)), gzip.compress(b"\0" * 2**25), zlib.compress(good(file))):
        raw = _request(path, packed, more=b"Content-Encoding: gzip\r\n")
        yield FormAttack("a packed form", raw, frozenset({415}))


def part(name: bytes, data: bytes, more: bytes = b"", head: bytes = b"") -> bytes:
    """One part; `more` follows its name."""
    begin = b'--cut\r\nContent-Disposition: form-data; name="' + name + b'"' + more + b"\r\n"
    return begin + head + b"\r\n" + data + b"\r\n"


def upload(name: bytes, data: bytes = b"x", filename: bytes = b"a.png", kind: bytes = b"image/png") -> bytes:
    """A part with a file."""
    return part(name, data, b'; filename="' + filename + b'"', b"Content-Type: " + kind + b"\r\n")


FIELDS = part(b"model", MODEL) + part(b"prompt", b"hello")


def good(file: bytes) -> bytes:
    """A form that is in order."""
    return upload(file) + FIELDS + END


def _request(
    path: bytes, body: bytes, kind: bytes = KIND, more: bytes = b"", length: int | None = None
) -> bytes:
    size = len(body) if length is None else length
    head = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n" + AUTH + b"Content-Type: " + kind + b"\r\n" + more
    return head + b"Content-Length: %d\r\n\r\n" % size + body


def _readings(file: bytes) -> Iterator[tuple[str, bytes]]:
    """Forms that two readers may read differently."""
    rest = good(file)
    yield "no last boundary", rest.removesuffix(END)
    yield "a last boundary that is none", rest.removesuffix(END) + b"--cut-\r\n"
    yield "another boundary than the head's", rest.replace(b"--cut", b"--" + CANARY)
    yield "a preamble", CANARY + b"\r\n" + rest
    yield "line feeds alone", rest.replace(b"\r\n", b"\n")
    yield "two models", part(b"model", CANARY) + rest
    yield "a model as an array too", part(b"model[]", CANARY) + rest
    yield "a model with a filename", part(b"model", CANARY, b'; filename="m"') + rest
    yield "a file without a filename", part(file, CANARY) + rest
    yield "a file of another name", upload(b"config", CANARY) + rest


def _heads(file: bytes) -> Iterator[tuple[str, bytes]]:
    """Parts whose heads two readers may read differently, or that cost more to read than to send."""
    rest = good(file)
    yield "no name", part(b"", CANARY) + rest
    yield "two names", part(b"prompt2", CANARY, b'; name="model"') + rest
    yield "a name in RFC 5987's form", part(b"prompt2", CANARY, b"; name*=utf-8''model") + rest
    yield "two filenames", part(file, CANARY, b'; filename="a"; filename="b"') + FIELDS + END
    yield "a quote without its end", part(b'prompt2"; name=model', CANARY) + rest
    yield "an escaped quote that ends", part(b"a\\", CANARY) + rest
    yield "a name with a line end", part(b"a\r\nX-Evil: 1", CANARY) + rest
    yield "a name with a NUL", part(b"a\0model", CANARY) + rest
    yield "a folded head", part(b"a", CANARY, head=b"X-A: 1\r\n folded: 2\r\n") + rest
    yield (
        "two dispositions",
        part(b"a", CANARY, head=b'Content-Disposition: form-data; name="model"\r\n') + rest,
    )
    yield "an attachment", rest.replace(b"form-data; name=", b"attachment; name=", 1)
    yield "no disposition", b"--cut\r\nContent-Type: text/plain\r\n\r\n" + CANARY + b"\r\n" + rest
    yield "base64", part(b"a", b"Y2FuYXJ5", head=b"Content-Transfer-Encoding: base64\r\n") + rest
    yield (
        "quoted-printable",
        part(b"a", b"=61", head=b"Content-Transfer-Encoding: quoted-printable\r\n") + rest,
    )
    yield "a packed part", part(b"a", gzip.compress(CANARY), head=b"Content-Encoding: gzip\r\n") + rest
    yield (
        "a multipart inside",
        upload(file, CANARY, kind=b"multipart/mixed; boundary=in") + FIELDS + END,
    )
    yield "a message inside", upload(file, CANARY, kind=b"message/rfc822") + FIELDS + END
    yield (
        "a type with a line end",
        upload(file, CANARY, kind=b"image/png\rX-Evil: 1") + FIELDS + END,
    )
    yield "a value that is no UTF-8", part(b"prompt2", b"\xff\xfe" + CANARY) + rest
    yield "a field of LiteLLM's", part(b"api_base", b"http://" + CANARY + b".example") + rest
    yield "an object of LiteLLM's", part(b"litellm_params[api_base]", CANARY) + rest
    yield "thousands of parts", b"".join(part(b"a%d" % at, b"") for at in range(5000)) + rest
    yield (
        "thousands of heads",
        part(b"a", CANARY, head=b"".join(b"X-%d: 1\r\n" % at for at in range(5000))) + rest,
    )
    yield "a head of 200 kB", part(b"a", CANARY, head=b"X-A: " + b"a" * 200_000 + b"\r\n") + rest


KINDS: tuple[tuple[bytes, int], ...] = (
    (b"multipart/form-data", 400),
    (b"multipart/form-data; boundary=", 400),
    (b"multipart/form-data; boundary=cut; boundary=" + CANARY, 400),
    (b"multipart/form-data; boundary=cut; boundary*=utf-8''" + CANARY, 200),
    (b'multipart/form-data; boundary="cut', 400),
    (b"multipart/form-data; boundary=" + b"c" * 200, 400),
    (b'multipart/form-data; boundary="cut\\"x"', 400),
    (b"multipart/form-data, application/json; boundary=cut", 415),
    (b"multipart/mixed; boundary=cut", 415),
    (b"multipart/related; boundary=cut", 415),
    (b"application/x-www-form-urlencoded", 415),
    (b"application/json", 415),
    (b"text/html", 415),
)


def _typed(path: bytes, file: bytes, kind: bytes, status: int) -> tuple[bytes, frozenset[int], bool]:
    expected = frozenset({status, 400}) if kind == b"application/json" else frozenset({status})
    return _request(path, good(file), kind), expected, status == 200


def _passing(path: bytes, file: bytes) -> Iterator[FormAttack]:
    """Forms whose content is not read here, and whose names are made safe."""
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(2**25))
    for name, data in (
        ("a zip bomb", zipped.getvalue()),
        ("a PNG of 65,535 by 65,535", _png()),
        ("a request inside", b"\r\n0\r\n\r\n" + INNER.replace(b"HTTP/1.1", b"HTTP/2.0")),
        ("the last boundary of another form", b"\r\n--cutter--\r\n"),
    ):
        yield FormAttack(name, _request(path, upload(file, data) + FIELDS + END), _OK, passes=True)
    for filename in (
        b"../../../etc/" + CANARY + b"/passwd", b"C:\\\\" + CANARY + b"\\\\a.png", b"a%0D%0AX-Evil: 1.png",
        b'a\\"; name=\\"model.png', b"\xff\xfe.png", b"a.png; boundary=x", b"a" * 3000, b"%2e%2e%2fa.png",
    ):  # fmt: skip
        body = upload(file, filename=filename) + FIELDS + END
        yield FormAttack(f"a file named {filename[:40]!r}", _request(path, body), _OK, passes=True)
    for name, body in (
        ("an epilogue", good(file) + b"--cut\r\n" + INNER),
        (
            "an 8bit part",
            upload(file)
            + part(b"prompt", b"hello")
            + part(b"model", MODEL, head=b"Content-Transfer-Encoding: 8bit\r\n")
            + END,
        ),
        (
            "a length in a part",
            upload(file)
            + part(b"prompt", b"hello")
            + part(b"model", MODEL, head=b"Content-Length: 99999\r\n")
            + END,
        ),
        ("another type", upload(file, kind=b"text/html") + FIELDS + END),
    ):
        yield FormAttack(name, _request(path, body), _OK, passes=True)


def _sizes(path: bytes, file: bytes) -> Iterator[FormAttack]:
    """Lengths that are not what they say; fields of more than the text that is taken."""
    too_large = frozenset({413})
    yield FormAttack("a length of 10 GB", _request(path, b"", length=10**10), too_large)
    yield FormAttack("a length that is too short", _request(path, good(file), length=200), frozenset({400}))
    yield FormAttack(
        "a length that is too long", _request(path, good(file), length=10**6), frozenset({0, 408})
    )
    text = part(b"prompt2", b"x" * 2**21)
    yield FormAttack("2 MiB of text", _request(path, text + good(file)), too_large)
    zeros = _request(path, b"", more=b"Transfer-Encoding: chunked\r\n").replace(b"Content-Length: 0\r\n", b"")
    broken = zeros + b"%x\r\n" % len(good(file)) + good(file)[:-3]
    yield FormAttack("a chunk that does not end", broken, frozenset({0, 408}))


_OK = frozenset({200})


def _png() -> bytes:
    """A few bytes that claim sixteen gigabytes."""
    size = (65_535).to_bytes(4, "big")
    fields = b"IHDR" + size + size + b"\x08\x06\0\0\0"
    head = b"\0\0\0\x0d" + fields + zlib.crc32(fields).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + head + b"\0\0\0\0IEND\xaeB`\x82"
