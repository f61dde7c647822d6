"""The drawing of fallbacks."""

from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.console.fallback_graph import BOX_HEIGHT, BOX_WIDTH, draw_fallbacks

NAMES = st.sampled_from("abcdef")


def test_without_fallbacks_nothing_is_drawn() -> None:
    assert draw_fallbacks({"a": [], "b": []}) is None


def test_a_fallback_stands_right_of_its_group() -> None:
    graph = draw_fallbacks({"a": ["b", "c"], "b": ["c"]})
    assert graph is not None
    columns = {one.name: one.x for one in graph.boxes}
    assert columns["a"] < columns["b"] < columns["c"]
    assert graph.sentences == ("a falls back to b, then c.", "b falls back to c.")


@given(st.dictionaries(NAMES, st.lists(NAMES, max_size=4), max_size=6))
def test_every_fallback_is_an_arrow_between_boxes_that_do_not_overlap(edges: dict[str, list[str]]) -> None:
    """With cycles, too."""
    graph = draw_fallbacks(edges)
    if graph is None:
        assert not any(edges.values())
        return
    drawn = {(one.source, one.target) for one in graph.arrows}
    assert drawn == {(name, target) for name, targets in edges.items() for target in targets}
    corners = [(one.x, one.y) for one in graph.boxes]
    assert len({*corners}) == len(corners)
    assert all(x + BOX_WIDTH <= graph.width and y + BOX_HEIGHT <= graph.height for x, y in corners)
