"""The JSON in a form's field."""

import pytest

from llm_proxy.console.forms import FURTHER, parse_further_fields, parse_json
from llm_proxy.errors import BadRequest


@pytest.mark.parametrize("text", ['{"rpm": 1, "rpm": 2}', '{"a": [{"b": 1, "\\u0062": 2}]}', "{", "[]"])
def test_what_is_no_object_with_each_name_once_is_refused(text: str) -> None:
    """The error is shown at the field."""
    with pytest.raises(BadRequest) as refused:
        parse_further_fields(text)
    assert refused.value.param == FURTHER


def test_numbers_are_as_they_were_typed() -> None:
    """Also one that has more digits than Python reads."""
    assert parse_further_fields("") == {}
    assert parse_json('[{"a": 1.5}, {"a": 2}]', "tools") == [{"a": 1.5}, {"a": 2}]
    assert parse_json("1" * 5000 + "e-5000", "more") is not None
