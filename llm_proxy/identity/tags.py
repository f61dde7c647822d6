"""Tags: words by which an operator or a caller groups calls, on keys and on single calls.

Pure. Invariants: a tag is 1 to 50 printable characters without a comma, a call has at most 10; as text they
are joined by commas, in the order they were given, each once.
"""

from collections.abc import Iterable
from typing import Any, cast

from llm_proxy.errors import BadRequest

MOST_TAGS = 10
LONGEST_TAG = 50
Tags = tuple[str, ...]


def tags_from(given: Any, path: str) -> Tags:  # noqa: ANN401 -- unchecked JSON
    """The tags of a list, or of text with commas; raises `BadRequest` naming `path`."""
    if given is None:
        return ()
    if isinstance(given, str):
        words: list[Any] = [word for word in given.split(",") if word.strip()]
    elif isinstance(given, list | tuple):
        words = list(cast("Iterable[Any]", given))
    else:
        raise _invalid(path)
    return merged((_tag(word, path) for word in words), path)


def merged(tags: Iterable[str], path: str) -> Tags:
    """Each tag once; raises `BadRequest` naming `path` when there are too many."""
    found = tuple(dict.fromkeys(tags))
    if len(found) > MOST_TAGS:
        why = f"Invalid '{path}': at most {MOST_TAGS} tags, the key's own included."
        raise BadRequest(why, param=path, code="invalid_value")
    return found


def _tag(word: Any, path: str) -> str:  # noqa: ANN401 -- unchecked JSON
    text = word.strip() if isinstance(word, str) else ""
    if not text or len(text) > LONGEST_TAG or not text.isprintable() or "," in text:
        raise _invalid(path)
    return text


def _invalid(path: str) -> BadRequest:
    return BadRequest(
        f"Invalid '{path}': expected tags of 1 to {LONGEST_TAG} printable characters without commas.",
        param=path,
        code="invalid_value",
    )
