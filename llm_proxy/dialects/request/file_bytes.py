"""How many bytes of a body are files, which say nothing about its tokens.

Pure. Invariant: of each file some bytes count as a prompt, as if it were a text.
"""

from collections.abc import Callable

from llm_proxy.endpoints import Endpoint
from llm_proxy.json_access import Json, as_list, as_object, as_objects

FILE_PROMPT_BYTES = 4096
"""What a file in a chat or a moderation counts for as text, at most."""
EDIT_PROMPT_BYTES = 256
"""What an image of an edit does, of which there may be many."""


def file_bytes(text: object, prompt_bytes: int = FILE_PROMPT_BYTES) -> int:
    """Returns the bytes of a file or a link beyond those that count as a prompt; 0 for anything else."""
    return max(len(text) - prompt_bytes, 0) if isinstance(text, str) else 0


def linked_file_bytes(endpoint: Endpoint, body: Json) -> int:
    """Returns the bytes of the images that a body links to or holds; it need not be valid."""
    count = _LINKED.get(endpoint)
    return count(body) if count is not None else 0


def _moderated(body: Json) -> int:
    return sum(
        file_bytes(as_object(one.get("image_url")).get("url")) for one in as_objects(body.get("input"))
    )


def _edited(body: Json) -> int:
    images = [*as_list(body.get("images")), body.get("mask"), body.get("markup")]
    return sum(file_bytes(as_object(one).get("image_url"), EDIT_PROMPT_BYTES) for one in images)


_LINKED: dict[Endpoint, Callable[[Json], int]] = {"moderations": _moderated, "images.edits": _edited}
