"""Sign-in by an OpenID provider: code flow with PKCE, state and nonce; groups become a role.

Invariants: the only home of Authlib; a flow belongs to the browser that began it, by a secret in its cookie
from which state, nonce and verifier follow; an ID token counts with a valid signature of the provider's own
keys, for this client, this flow and this moment. Sources: OpenID Connect Core 1.0, RFC 7636, RFC 9207.
"""

import asyncio
import base64
import hmac
import logging
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

import httpx
from authlib.deprecate import AuthlibDeprecationWarning
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from llm_proxy.errors import APIError, Forbidden
from llm_proxy.identity.admin_keys import AdminKeySpec, Role, validate_admin_key
from llm_proxy.json_access import Json, as_object
from llm_proxy.settings import Settings

with warnings.catch_warnings():  # its advice to use httpx2 is not for our log
    warnings.simplefilter("ignore", AuthlibDeprecationWarning)
    from authlib.integrations.httpx_client import AsyncOAuth2Client

log = logging.getLogger(__name__)

CALLBACK = "/sign-in/oidc/callback"
_TIMEOUT_S = 10.0
_METADATA_S = 600.0
_LEEWAY_S = 60
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_RANK: Mapping[str, int] = {"owner": 0, "operator": 1, "viewer": 2, "tenant": 3}
_MAX_NAME_CHARS = 128
_FAILED = "The sign-in at the identity provider failed. Try again."


class OidcFailed(APIError):  # noqa: N818 -- errors are named for the state they report
    """The identity provider did not answer, or its answer is not valid."""

    status = 502


class _Client(Protocol):
    """What is used of Authlib's client, which has no types."""

    async def fetch_token(self, url: str, *, code: str, code_verifier: str) -> Json:
        """Exchanges a code."""
        ...

    def create_authorization_url(self, url: str, **parameters: str) -> tuple[str, str]:
        """Returns where a browser is sent, and the state."""
        ...

    async def aclose(self) -> None:
        """Closes its connections."""
        ...


@dataclass(frozen=True, slots=True)
class Flow:
    """One sign-in on its way: what follows from the secret in the browser's cookie."""

    secret: str

    @property
    def state(self) -> str:
        """What the provider sends back."""
        return self._derived(b"state")

    @property
    def nonce(self) -> str:
        """What the ID token repeats."""
        return self._derived(b"nonce")

    @property
    def verifier(self) -> str:
        """PKCE's secret: 43 characters."""
        return self._derived(b"verifier")

    def _derived(self, purpose: bytes) -> str:
        digest = hmac.digest(self.secret.encode(), b"llm-proxy console oidc " + purpose, "sha256")
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


class OpenIdProvider:
    """The identity provider of the settings."""

    def __init__(self, settings: Settings, redirect_uri: str) -> None:
        """Takes settings with an issuer, and where the provider sends browsers back."""
        assert settings.console_oidc_issuer is not None  # noqa: S101 -- the caller looked
        self._settings = settings
        self._issuer = settings.console_oidc_issuer.rstrip("/")
        self._redirect_uri = redirect_uri
        self._lock = asyncio.Lock()
        self._metadata: Json = {}
        self._keys: Json = {}
        self._read_at_s = float("-inf")

    @property
    def host(self) -> str:
        """The provider's host name, for the sign-in page."""
        return urlsplit(self._issuer).hostname or self._issuer

    async def authorization_url(self, flow: Flow) -> str:
        """Returns where the browser signs in; raises `OidcFailed`."""
        metadata, _ = await self._discovered()
        client = self._client(metadata)
        try:
            url, _ = client.create_authorization_url(
                str(metadata["authorization_endpoint"]),
                state=flow.state,
                nonce=flow.nonce,
                code_verifier=flow.verifier,
            )
        finally:
            await client.aclose()
        return url

    async def person(self, flow: Flow, answer: Mapping[str, str]) -> AdminKeySpec:
        """Returns the person's name, role and tenant from what the provider sent back with the browser.

        Raises:
            OidcFailed: The provider, or what it sent, is at fault.
            Forbidden: The person refused, or has no role here; or another browser began the flow.
        """
        metadata, keys = await self._discovered()
        if not hmac.compare_digest(answer.get("state", "").encode(), flow.state.encode()):
            raise Forbidden("This sign-in was begun in another browser, or too long ago. Try again.")
        if answer.get("iss", self._issuer).rstrip("/") != self._issuer:
            raise Forbidden("This sign-in comes from another identity provider.")
        if "error" in answer or not answer.get("code"):
            raise Forbidden("The identity provider did not sign you in.")
        try:
            token = await self._exchange(metadata, flow, answer["code"])
            claims = await self._claims(str(token["id_token"]), flow, keys)
            if not _groups(claims, self._settings.console_oidc_groups_claim):
                claims = await self._with_user_info(metadata, str(token["access_token"]), claims)
        except (JoseError, httpx.HTTPError, ValueError, KeyError) as fault:
            log.warning("a sign-in by the identity provider failed", extra={"cause": type(fault).__name__})
            raise OidcFailed(_FAILED) from None
        return self._spec(claims)

    def _spec(self, claims: Json) -> AdminKeySpec:
        settings = self._settings
        name = claims.get(settings.console_oidc_name_claim)
        if settings.console_oidc_name_claim == "email" and claims.get("email_verified") is False:
            name = None
        name = str(name or claims["sub"])[:_MAX_NAME_CHARS]
        roles = [
            role
            for group, role in settings.console_oidc_roles.items()
            if group in _groups(claims, settings.console_oidc_groups_claim)
        ]
        if not roles:
            raise Forbidden(f"{name} is in no group that has a role at this console.")
        role, _, tenant = min(roles, key=lambda one: _RANK[one.partition(":")[0]]).partition(":")
        return validate_admin_key(AdminKeySpec(name, cast("Role", role), tenant or None))

    async def _exchange(self, metadata: Json, flow: Flow, code: str) -> Json:
        client = self._client(metadata)
        try:
            return await client.fetch_token(
                str(metadata["token_endpoint"]), code=code, code_verifier=flow.verifier
            )
        except Exception as fault:  # noqa: BLE001 -- Authlib's client is httpx's or httpx2's, whichever is installed
            log.warning("a sign-in by the identity provider failed", extra={"cause": type(fault).__name__})
            raise OidcFailed(_FAILED) from None
        finally:
            await client.aclose()

    async def _claims(self, token: str, flow: Flow, keys: Json) -> Json:
        """Returns an ID token's claims once they are known to be true; raises `JoseError` or `ValueError`."""
        try:
            decoded = _decode(token, keys)
        except (JoseError, ValueError):  # the provider may have new keys
            self._read_at_s = float("-inf")
            _, keys = await self._discovered()
            decoded = _decode(token, keys)
        client_id = self._settings.console_oidc_client_id
        options = {
            "iss": {"essential": True, "values": [self._issuer, f"{self._issuer}/"]},
            "aud": {"essential": True, "value": client_id},
        }
        parameters = {"nonce": flow.nonce, "client_id": client_id}
        checked: Any = CodeIDToken(decoded.claims, decoded.header, options, parameters)
        checked.validate(now=int(time.time()), leeway=_LEEWAY_S)
        return dict(decoded.claims)

    async def _with_user_info(self, metadata: Json, access_token: str, claims: Json) -> Json:
        """Returns the claims, completed by those of the provider's userinfo endpoint."""
        endpoint = metadata.get("userinfo_endpoint")
        if not endpoint:
            return claims
        headers = {"Authorization": f"Bearer {access_token}"}
        async with self._http() as client:
            more = as_object((await client.get(str(endpoint), headers=headers)).raise_for_status().json())
        return {**more, **claims} if more.get("sub") == claims["sub"] else claims

    async def _discovered(self) -> tuple[Json, Json]:
        """Returns the provider's metadata and keys, at most ten minutes old; raises `OidcFailed`."""
        async with self._lock:
            if time.monotonic() - self._read_at_s < _METADATA_S:
                return self._metadata, self._keys
            try:
                async with self._http() as client:
                    path = f"{self._issuer}/.well-known/openid-configuration"
                    metadata = as_object((await client.get(path)).raise_for_status().json())
                    _require_issuer(metadata, self._issuer)
                    keys = as_object((await client.get(str(metadata["jwks_uri"]))).raise_for_status().json())
            except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError) as fault:
                log.warning("the identity provider cannot be read", extra={"cause": type(fault).__name__})
                raise OidcFailed("The identity provider does not answer. Sign in with a key.") from None
            self._metadata, self._keys, self._read_at_s = metadata, keys, time.monotonic()
            return metadata, keys

    def _http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(timeout=_TIMEOUT_S, verify=self._settings.tls)

    def _client(self, metadata: Json) -> _Client:
        settings = self._settings
        secret = settings.console_oidc_client_secret
        methods = metadata.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        method = "client_secret_basic" if "client_secret_basic" in methods else "client_secret_post"
        made = AsyncOAuth2Client(
            settings.console_oidc_client_id,
            secret.get_secret_value() if secret else None,
            token_endpoint_auth_method=method if secret else "none",
            scope=settings.console_oidc_scopes,
            redirect_uri=self._redirect_uri,
            code_challenge_method="S256",
            timeout=_TIMEOUT_S,
            verify=settings.tls,
        )
        return cast("_Client", made)


def _decode(token: str, keys: Json) -> jwt.Token:
    key_set = KeySet.import_key_set(cast("Any", keys))
    return jwt.decode(token, key_set, algorithms=list(_ALGORITHMS))


def _require_issuer(metadata: Json, issuer: str) -> None:
    if str(metadata.get("issuer", "")).rstrip("/") != issuer:
        raise ValueError("the metadata names another issuer")


def _groups(claims: Json, path: str) -> frozenset[str]:
    """Returns the groups of a claim; dots in its name lead into objects (`realm_access.roles`)."""
    value: Any = claims.get(path)
    if value is None:
        value = claims
        for part in path.split("."):
            value = as_object(value).get(part)
    if isinstance(value, str):
        return frozenset({value})
    return (
        frozenset(str(one) for one in cast("list[object]", value)) if isinstance(value, list) else frozenset()
    )
