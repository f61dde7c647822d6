"""What an OTLP/HTTP exporter sent, read from protobuf by hand: each span's attributes, its resource's too.

Source: opentelemetry-proto, `trace/v1/trace.proto` and `common/v1/common.proto`.
"""

from collections.abc import Iterator

Field = tuple[int, bytes | int]
RESOURCE_SPANS, RESOURCE, SCOPE_SPANS, SPANS, ATTRIBUTES = 1, 1, 2, 2, 9
STRING, ARRAY = 1, 5


def spans(request: bytes) -> list[dict[str, str | list[str]]]:
    """The attributes of every span of an export request that are text, or lists of text."""
    found: list[dict[str, str | list[str]]] = []
    for resource_spans in _inside(request, RESOURCE_SPANS):
        shared = [pair for one in _inside(resource_spans, RESOURCE) for pair in _inside(one, 1)]
        for scope_spans in _inside(resource_spans, SCOPE_SPANS):
            found += [
                dict(_read(pair) for pair in [*shared, *_inside(span, ATTRIBUTES)])
                for span in _inside(scope_spans, SPANS)
            ]
    return found


def _read(pair: bytes) -> tuple[str, str | list[str]]:
    [key], [value] = _inside(pair, 1), _inside(pair, 2)
    texts = _inside(value, STRING)
    if texts:
        return key.decode(), texts[0].decode()
    items = [item for array in _inside(value, ARRAY) for item in _inside(array, 1)]
    return key.decode(), [text.decode() for item in items for text in _inside(item, STRING)]


def _inside(message: bytes, number: int) -> list[bytes]:
    return [value for found, value in _fields(message) if found == number and isinstance(value, bytes)]


def _fields(message: bytes) -> Iterator[Field]:
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(message, at)
        else:
            size = 8 if wire == 1 else 4
        yield number, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
