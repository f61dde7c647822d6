"""Whose cached answers a key names, and what a purge matches."""

from fnmatch import fnmatchcase

from hypothesis import given
from hypothesis import strategies as st

from llm_proxy.identity import Caller
from llm_proxy.upstream.litellm_protocol import cache_key_patterns, cache_namespace

NAMES = st.one_of(
    st.none(), st.text(min_size=1, max_size=12), st.sampled_from(["a", "a:b", "*", "a*", "model=m"])
)


def key(tenant: str | None, group: str, key_id: str = "k") -> str:
    """The key of an answer."""
    return f"{cache_namespace(Caller(key_id, 'virtual', tenant=tenant), group)}:{'0' * 64}"


@given(
    NAMES,
    st.text(min_size=1, max_size=12),
    NAMES,
    NAMES,
)
def test_a_purge_matches_exactly_what_it_names(
    tenant: str | None, group: str, of_tenant: str | None, of_group: str | None
) -> None:
    """Whatever is in the names: separators, wildcards, other scripts."""
    matched = any(fnmatchcase(key(tenant, group), one) for one in cache_key_patterns(of_tenant, of_group))
    meant = (of_tenant is None or of_tenant == tenant) and (of_group is None or of_group == group)
    assert matched is meant


def test_callers_share_within_a_tenant_and_nowhere_else() -> None:
    """A key without a tenant is alone, also when its id is a tenant's name."""
    assert key("t", "m", "one") == key("t", "m", "other")
    assert len({key("t", "m"), key(None, "m", "t"), key(None, "m", "u"), key("t", "n"), key("u", "m")}) == 5
