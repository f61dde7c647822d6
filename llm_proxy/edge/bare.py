"""Whole answers for connections that have sent no request, as bytes; each is the last on its connection."""


def _refusal(line: bytes, code: bytes, message: bytes, kind: bytes = b"invalid_request_error") -> bytes:
    body = b'{"error":{"message":"%b","type":"%b","param":null,"code":"%b"}}' % (message, kind, code)
    head = b"HTTP/1.1 %b\r\nconnection: close\r\ncontent-type: application/json\r\n" % line
    if kind == b"server_error":
        head += b"retry-after: 1\r\n"
    return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)


NO_HTTP = _refusal(b"400 Bad Request", b"invalid_http", b"What was sent is not an HTTP/1.1 request.")
TOO_LARGE = _refusal(
    b"431 Request Header Fields Too Large", b"headers_too_large", b"The request's headers are too large."
)
TOO_MANY = _refusal(
    b"503 Service Unavailable", b"overloaded", b"Too many connections; please try again.", b"server_error"
)
