"""The models a LiteLLM key may use: its own list, its team's and others', intersected.

Pure. LiteLLM checks the lists one after the other, and an empty list allows everything; the gateway has one
list a key. Names of access groups become the names of their models.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from llm_proxy.json_access import Json, as_list, as_object
from llm_proxy.litellm_import.source import SourceRows, json_column
from llm_proxy.wildcards import wildcard_matches

ALL_TEAM_MODELS, ALL_PROXY_MODELS, NO_DEFAULT_MODELS = (
    "all-team-models",
    "all-proxy-models",
    "no-default-models",
)
ModelNames = tuple[str, ...] | None
"""Names and wildcards; None for every model."""


@dataclass(frozen=True, slots=True)
class AccessGroups:
    """The models of each access group: those that name it in `model_info`, and those of its own table."""

    models: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    by_id: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])

    @classmethod
    def read(cls, rows: SourceRows, config: Json) -> "AccessGroups":
        """Reads the groups of the database and of a configuration file."""
        found: dict[str, set[str]] = {}
        entries = [*rows.of("LiteLLM_ProxyModelTable"), *as_list(config.get("model_list"))]
        for entry in map(as_object, entries):
            info = as_object(json_column(entry.get("model_info")))
            for group in as_list(info.get("access_groups")):
                found.setdefault(str(group), set()).add(public_name(entry))
        by_id: dict[str, frozenset[str]] = {}
        for row in rows.of("LiteLLM_AccessGroupTable"):
            names = frozenset(as_list(row.get("access_model_names")))
            by_id[str(row["access_group_id"])] = names
            found.setdefault(str(row["access_group_name"]), set()).update(names)
        return cls({name: frozenset(models) for name, models in found.items()}, by_id)

    def expand(self, names: Iterable[object], group_ids: Iterable[object] = ()) -> ModelNames:
        """Returns a list with access groups' models in their place; None for one that allows everything."""
        given = [str(name) for name in names]
        if not given or ALL_PROXY_MODELS in given or "*" in given:
            return None
        found: dict[str, None] = {}
        for name in given:
            found |= dict.fromkeys(sorted(self.models.get(name, {name})))
        for group_id in group_ids:
            found |= dict.fromkeys(sorted(self.by_id.get(str(group_id), ())))
        return tuple(name for name in found if name != NO_DEFAULT_MODELS)


def public_name(row: Json) -> str:
    """Returns the name by which callers use a model; LiteLLM stores a team's own model under another."""
    info = as_object(json_column(row.get("model_info")))
    return str(info.get("team_public_model_name") or row.get("model_name"))


def intersect(one: ModelNames, other: ModelNames) -> ModelNames:
    """Returns what both lists allow; of two wildcards that only overlap neither."""
    if one is None or other is None:
        return other if one is None else one
    kept = [name for name in one if _covers(other, name)]
    return tuple(dict.fromkeys([*kept, *(name for name in other if _covers(one, name))]))


def _covers(names: tuple[str, ...], name: str) -> bool:
    return any(known == name or ("*" in known and wildcard_matches(known, name)) for known in names)
