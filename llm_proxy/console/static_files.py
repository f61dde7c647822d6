"""The console's own files: styles, scripts and their licences, each under a name that holds its hash.

Invariants: read once, at the start; a name that holds a hash never changes its content, so browsers keep it.
Sources of what is not ours: htmx 2.0.11 (0BSD) and uPlot 1.6.32 (MIT), as their npm packages have them.
"""

import gzip
import hashlib
from dataclasses import dataclass
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response

_MEDIA_TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "LICENSE": "text/plain; charset=utf-8",
}
_KEPT = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file and the same compressed."""

    content: bytes
    compressed: bytes
    media_type: str


class StaticFiles:
    """Gives a file's address, and serves it."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._files: dict[str, StaticFile] = {}
        for file in resources.files("llm_proxy.console").joinpath("static").iterdir():
            stem, _, end = file.name.rpartition(".")
            if end not in _MEDIA_TYPES:
                continue
            content = file.read_bytes()
            named = f"{stem}.{hashlib.sha256(content).hexdigest()[:12]}.{end}"
            self._names[file.name] = named
            self._files[named] = StaticFile(content, gzip.compress(content, mtime=0), _MEDIA_TYPES[end])

    def address(self, name: str) -> str:
        """Returns where a file is served; raises `KeyError` for one that does not exist."""
        return f"/static/{self._names[name]}"

    def respond(self, request: Request) -> Response:
        """Returns the file that a request's path names, or a 404."""
        found = self._files.get(request.path_params["name"])
        if found is None:
            return Response(status_code=404)
        headers = {"cache-control": _KEPT, "vary": "accept-encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["content-encoding"] = "gzip"
            return Response(found.compressed, headers=headers, media_type=found.media_type)
        return Response(found.content, headers=headers, media_type=found.media_type)
