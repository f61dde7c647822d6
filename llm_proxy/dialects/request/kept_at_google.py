"""Rejects what a request names in the account at Google (files, caches, stores), and another model.

Invariants: all callers share the account of the operator, so none may read it by a name. A name is read as
the most lenient of LiteLLM and Google would read it; elsewhere than at Google an input is a text.
Source: LiteLLM 1.108.6, as run; https://ai.google.dev/api/files.
"""

import re
import unicodedata
from urllib.parse import unquote

from llm_proxy.dialects.request.url_guard import fetched_strings, strings_below
from llm_proxy.dialects.request.validators import invalid
from llm_proxy.endpoints import Endpoint
from llm_proxy.errors import BadRequest
from llm_proxy.json_access import Json, as_object, as_objects

GOOGLE = frozenset({"gemini", "vertex_ai", "vertex_ai_beta"})
"""Providers that read the account."""

_HEAD_CHARS = 1024
_HOST = r"(?:[^/?#\\]*[@.-])?(?:generativelanguage|aiplatform|www)(?:\.[\w-]+)*\.googleapis\.com\.?(?::\d*)?"
_KEPT = re.compile(
    r"[\s\x00-\x20\x7f-\xa0\u200b-\u200f\u2060-\u2064\ufeff]*"
    rf"(?:gs:|(?:files|cachedContents)[/\\]|https?:[/\\]*{_HOST}(?:[/?#\\]|$))",
    re.IGNORECASE,
)
"""A bucket, the bare name of a file or a cache, an address that Google answers to an account alone."""
_LINK = re.compile(r"(?:https?:|data:)", re.IGNORECASE)
_CACHES = ("cachedContent", "cached_content")
_READS_STORES = frozenset({"fileSearch", "file_search", "retrieval"})
"""Tools that read what is stored in the account, by its name."""
_CONFIGS = ("generationConfig", "generation_config")
_OTHER_MODELS = ("routingConfig", "routing_config", "modelSelectionConfig", "model_selection_config")


def names_kept(text: str) -> bool:
    """Whether a text is the name or the address of what is kept in the account at Google."""
    return _KEPT.match(unicodedata.normalize("NFKC", unquote(text[:_HEAD_CHARS]))) is not None


def refuse_kept(body: Json, above: str = "") -> None:
    """Raises `BadRequest` for a cache, or a tool that reads a store, in a body or `above` in one."""
    for name in _CACHES:
        if body.get(name):
            raise not_ours(f"{above}{name}", "Cached content")
    for at, tool in enumerate(as_objects(body.get("tools")) or [as_object(body.get("tools"))]):
        for name in _READS_STORES.intersection(tool):
            raise not_ours(f"{above}tools[{at}].{name}", "A store of documents")


def refuse_other_model(config: Json, path: str) -> None:
    """Raises `BadRequest` for a configuration that chooses another model than the one that was admitted."""
    for name in _OTHER_MODELS:
        if config.get(name):
            raise invalid(f"{path}.{name}", "another model than the request's cannot be chosen.")


def refuse_kept_file(link: str, path: str) -> None:
    """Raises `BadRequest` for a link to a file in the account at Google."""
    if names_kept(link):
        raise not_ours(path, "A file")


def refuse_kept_at_google(endpoint: Endpoint, body: Json) -> None:
    """Raises `BadRequest` for a body in OpenAI's schema that names what is kept; a provider is Google.

    An id of a file has to be a link: LiteLLM reads names of files out of ids of its own.
    """
    refuse_kept(body)
    extra = as_object(body.get("extra_body"))
    refuse_kept(extra, "extra_body.")
    for name in _CONFIGS:
        refuse_other_model(as_object(extra.get(name)), f"extra_body.{name}")
    texts = strings_below(body.get("input"), "input") if endpoint == "embeddings" else ()
    for path, text in (*fetched_strings(body), *texts):
        if path.endswith(".file_id") and _LINK.match(text) is None:
            raise not_ours(path, "A file")
        refuse_kept_file(text, path)


def not_ours(path: str, what: str) -> BadRequest:
    """The error of what is kept in the account at Google, which all callers of a gateway share."""
    return BadRequest(
        f"'{path}': {what} kept at Google belongs to the account of this gateway's operator, not to a "
        "caller. Send it inline.",
        param=path,
        code="unsupported_parameter",
    )
