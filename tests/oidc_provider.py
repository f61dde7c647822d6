"""A real OpenID provider (`oidc-provider-mock`, made of Authlib) that also insists on PKCE, as a process.

`python oidc_provider.py PORT` serves it; `run_oidc_provider` starts that. `PUT /users/SUB` makes a person.
"""

import base64
import hashlib
import io
import sys
import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
from loopback import NO_TLS

from llm_proxy.stack import process
from llm_proxy.stack.probe import free_port, is_up

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class OidcProvider:
    """A running provider."""

    url: str

    def add_person(self, sub: str, **claims: object) -> None:
        """Makes a person known."""
        made = httpx.put(f"{self.url}/users/{sub}", json=claims)
        assert made.is_success, made.text

    async def sign_in(self, address: str, sub: str) -> str:
        """Signs a person in at the page a browser was sent to; returns where the browser is sent back."""
        async with httpx.AsyncClient(verify=NO_TLS) as browser:
            answer = await browser.post(address, data={"sub": sub, "action": "authorize"})
        assert answer.status_code in (302, 303), answer.text
        return answer.headers["location"]


@contextmanager
def run_oidc_provider(folder: Path) -> Generator[OidcProvider]:
    """Yields a provider."""
    port = free_port()

    def is_ready(_: int) -> bool:
        return is_up(port, "/.well-known/openid-configuration")

    argv = (sys.executable, __file__, str(port))
    spec = process.ProcessSpec("oidc-provider", argv, {}, readiness_probe=is_ready, cwd=folder)
    started = process.start(spec, folder / "logs")
    try:
        process.wait_until_ready([started])
        yield OidcProvider(f"http://127.0.0.1:{port}")
    finally:
        process.stop([started])


class RequiresPkce:
    """Rejects a code whose verifier is not the one that the authorization request was made with."""

    def __init__(self, app: Wsgi) -> None:
        self._app = app
        self._challenges: set[str] = set()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Serves a request."""
        if environ["PATH_INFO"].endswith("/authorize"):
            query = parse_qs(environ["QUERY_STRING"])
            if query.get("code_challenge_method") != ["S256"] or "nonce" not in query:
                return _rejected(start_response)
            self._challenges.add(query["code_challenge"][0])
        if environ["PATH_INFO"].endswith("/token"):
            body: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            environ["wsgi.input"] = io.BytesIO(body)
            verifier = parse_qs(body.decode()).get("code_verifier", [""])[0]
            digest = hashlib.sha256(verifier.encode()).digest()
            if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() not in self._challenges:
                return _rejected(start_response)
        return self._app(environ, start_response)


def _rejected(start_response: Callable[..., Any]) -> list[bytes]:
    start_response("400 Bad Request", [("Content-Type", "application/json")])
    return [b'{"error": "invalid_request"}']


def _serve(port: int) -> None:
    warnings.simplefilter("ignore")  # of its own use of Authlib
    import oidc_provider_mock  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]  -- in its process alone
    from werkzeug.serving import make_server  # noqa: PLC0415 -- the same

    make_server("127.0.0.1", port, RequiresPkce(oidc_provider_mock.app()), threaded=True).serve_forever()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))


def query_of(address: str) -> dict[str, str]:
    """Returns the query of an address."""
    return {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
