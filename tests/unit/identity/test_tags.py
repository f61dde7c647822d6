"""Tags in a list, a text and a header."""

import pytest

from llm_proxy.errors import BadRequest
from llm_proxy.identity import attribution_from_headers, parse_tags

LONGEST = "x" * 50


@pytest.mark.parametrize(
    ("given", "tags"),
    [
        (None, ()),
        ([], ()),
        ("", ()),
        ("a, b,,a", ("a", "b")),
        (["b", " a ", "b"], ("b", "a")),
        (["Équipe 7", LONGEST], ("Équipe 7", LONGEST)),
        (list("abcdefghij"), tuple("abcdefghij")),
    ],
)
def test_tags_are_read_from_a_list_or_text(given: object, tags: tuple[str, ...]) -> None:
    """Each once, in their order."""
    assert parse_tags(given, "tags") == tags


@pytest.mark.parametrize(
    "given",
    [7, {"a": 1}, [1], [""], ["a,b"], [LONGEST + "x"], ["a\0"], ["\ud800"], list("abcdefghijk"), [None]],
)
def test_an_invalid_tag_is_rejected_by_its_path(given: object) -> None:
    """Too long, too many, no text, with a comma."""
    with pytest.raises(BadRequest) as refused:
        parse_tags(given, "metadata.tags")
    assert (refused.value.param, refused.value.code) == ("metadata.tags", "invalid_value")


def test_headers_name_tags_people_and_a_run() -> None:
    """In UTF-8, or in Latin-1 as older clients write it."""
    named = attribution_from_headers({b"x-tags": "a, équipe".encode(), b"x-run-id": b"r-1"})
    assert (named.tags, named.run, named.agent) == (("a", "équipe"), "r-1", None)
    assert attribution_from_headers({b"x-tags": "équipe".encode("latin-1")}).tags == ("équipe",)
    for encoding in ("utf-8", "latin-1"):
        of_people = {b"x-user-id": "Jürgen".encode(encoding), b"x-tenant-id": "Büro".encode(encoding)}
        named = attribution_from_headers(of_people)
        assert (named.user, named.tenant) == ("Jürgen", "Büro")
    assert attribution_from_headers({b"x-tenant-id": "Отдел".encode()}).tenant == "Отдел"
    with pytest.raises(BadRequest) as refused:
        attribution_from_headers({b"x-tags": b"x" * 51})
    assert refused.value.param == "x-tags"
