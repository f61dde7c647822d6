"""The models, credentials, guardrails and settings of a LiteLLM proxy's database as a configuration file.

Pure. Invariant: no secret stands in the configuration; each is `os.environ/NAME`, and the variables are
returned apart. What LiteLLM encrypted with another key than was given is left out and noted as lost.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import yaml

from llm_proxy.json_access import Json, as_object, is_array
from llm_proxy.litellm_import.model_lists import public_name
from llm_proxy.litellm_import.plan import ImportPlan
from llm_proxy.litellm_import.source import SourceRows, json_column

Decrypt = Callable[[Sequence[str]], Sequence[str | None]]
"""Returns the plain text of each value; None where no key decrypts it."""
_CIPHERTEXT = re.compile(r"(?:litellm_enc::)?(?:v2:gcm:[\w=-]+|[\w+/-]{54,}={0,2})", re.ASCII)
_MARK = "litellm_enc::"
_SECRET_NAME = re.compile(r"key|token|secret|password|credential|auth|cookie|header", re.IGNORECASE)
_PLAIN_NAMES = frozenset(
    {"litellm_credential_name", "tokenizer", "base_model", "max_tokens", "cache_control_injection_points"}
)
_URL_WITH_PASSWORD = re.compile(r"\w+://[^/?#@]*:[^/?#@]*@")
_REFERENCE = "os.environ/"
_DATABASE_FIELDS = frozenset(
    {"db_model", "created_at", "created_by", "updated_at", "updated_by", "team_id", "team_public_model_name"}
)
_SETTINGS = ("litellm_settings", "router_settings", "general_settings")
_OWN_SETTINGS = frozenset({"master_key", "database_url", "store_model_in_db", "salt_key"})
_BARE = re.compile(r"[\w./:+=@%,-]+", re.ASCII)


@dataclass(slots=True)
class ConfigFile:
    """A configuration, and the variables it refers to."""

    document: Json = field(default_factory=dict[str, Any])
    variables: dict[str, str] = field(default_factory=dict[str, str], repr=False)
    models: int = 0

    def yaml_text(self) -> str:
        """Returns the configuration as YAML; empty if there is nothing in it."""
        return (
            yaml.safe_dump(self.document, sort_keys=False, allow_unicode=True, width=120)
            if self.document
            else ""
        )

    def env_text(self) -> str:
        """Returns the variables in the form of `.env`."""
        return "".join(f"{name}={_quoted(value)}\n" for name, value in self.variables.items())


def encrypted_values(rows: SourceRows) -> list[str]:
    """Returns each text that may be a ciphertext of LiteLLM's, once."""
    found = [
        *(json_column(row.get("litellm_params")) for row in rows.of("LiteLLM_ProxyModelTable")),
        *(json_column(row.get("credential_values")) for row in rows.of("LiteLLM_CredentialsTable")),
        *(json_column(row.get("litellm_params")) for row in rows.of("LiteLLM_GuardrailsTable")),
        *(json_column(row.get("param_value")) for row in rows.of("LiteLLM_Config")),
    ]
    return list(dict.fromkeys(text for text in _texts(found) if _CIPHERTEXT.fullmatch(text)))


def build_config(rows: SourceRows, plan: ImportPlan, decrypt: Decrypt) -> ConfigFile:
    """Returns the configuration of what the database holds; adds to the plan's notes."""
    values = encrypted_values(rows)
    plain = dict(
        zip((value.removeprefix(_MARK) for value in values), _decrypted(values, decrypt), strict=True)
    )
    return _ConfigBuilder(rows, plan, plain).build()


def _decrypted(values: Sequence[str], decrypt: Decrypt) -> Sequence[str | None]:
    return decrypt([value.removeprefix(_MARK) for value in values]) if values else []


class _ConfigBuilder:
    def __init__(self, rows: SourceRows, plan: ImportPlan, plain: Mapping[str, str | None]) -> None:
        self._rows, self._plan, self._plain = rows, plan, plain
        self._made = ConfigFile()
        self._names_by_secret: dict[str, str] = {}

    def build(self) -> ConfigFile:
        document = self._made.document
        sections = {
            "model_list": list(self._models()),
            "credential_list": list(self._credentials()),
            "guardrails": list(self._guardrails()),
        }
        document |= {name: entries for name, entries in sections.items() if entries}
        self._made.models = len(sections["model_list"])
        self._add_settings()
        if self._plan.aliases:
            router = cast("Json", document.setdefault("router_settings", {}))
            router["model_group_alias"] = {**self._plan.aliases, **as_object(router.get("model_group_alias"))}
        return self._made

    def _models(self) -> Iterator[Json]:
        rows = self._rows.of("LiteLLM_ProxyModelTable")
        counts = Counter(
            public_name(row) for row in {(public_name(row), _team(row)): row for row in rows}.values()
        )
        for row in rows:
            name = public_name(row)
            label = f"model {name}"
            stored = as_object(json_column(row.get("litellm_params")))
            params = self._plain_value(stored)
            if row.get("blocked"):
                self._plan.note("changed", label, "left out of the file: it is blocked")
                continue
            if params is None or not as_object(params).get("model"):
                self._plan.note("lost", label, "left out: its values were encrypted with another key")
                continue
            if _team(row) is not None:
                if counts[name] > 1:
                    name = str(row["model_name"])
                self._plan.note(
                    "lost",
                    label,
                    f"it is its team's alone; in the file it is `{name}`, for every key that may use it",
                )
            info = {
                field: value
                for field, value in as_object(json_column(row.get("model_info"))).items()
                if field not in _DATABASE_FIELDS and value is not None
            }
            entry: Json = {"model_name": name, "litellm_params": self._referenced(params, name)}
            yield entry | {"model_info": info | {"id": row["model_id"]}}

    def _credentials(self) -> Iterator[Json]:
        for row in self._rows.of("LiteLLM_CredentialsTable"):
            name = str(row["credential_name"])
            values = self._plain_value(json_column(row.get("credential_values")), strictly=True)
            if values is None:
                self._plan.note("lost", f"credential {name}", "left out: it was encrypted with another key")
                continue
            info = as_object(json_column(row.get("credential_info")))
            yield {
                "credential_name": name,
                "credential_values": self._referenced(values, name),
                "credential_info": {key: value for key, value in info.items() if value is not None},
            }

    def _guardrails(self) -> Iterator[Json]:
        for row in self._rows.of("LiteLLM_GuardrailsTable"):
            name = str(row["guardrail_name"])
            if row.get("status", "active") != "active":
                continue
            if row.get("team_id"):
                self._plan.note("lost", f"guardrail {name}", "it is its team's alone, and not imported")
                continue
            params = self._plain_value(json_column(row.get("litellm_params")))
            if params is None:
                self._plan.note("lost", f"guardrail {name}", "left out: it was encrypted with another key")
                continue
            yield {"guardrail_name": name, "litellm_params": self._referenced(params, name)}

    def _add_settings(self) -> None:
        for row in self._rows.of("LiteLLM_Config"):
            name, value = str(row["param_name"]), as_object(json_column(row.get("param_value")))
            if name == "environment_variables":
                self._add_variables(value)
            elif name in _SETTINGS:
                kept = {
                    key: one for key, one in value.items() if key not in _OWN_SETTINGS and one is not None
                }
                plain = self._plain_value(kept)
                if kept:
                    self._made.document[name] = self._referenced(kept if plain is None else plain, name)
            elif value:
                self._plan.note("note", f"setting {name}", "kept in LiteLLM's database only")

    def _add_variables(self, variables: Json) -> None:
        references: Json = {}
        for name, stored in variables.items():
            value = self._plain_value(stored, strictly=True)
            if not isinstance(value, str) or not name.isidentifier():
                self._plan.note("lost", f"variable {name}", "left out: it was encrypted with another key")
                continue
            self._made.variables[name] = value
            references[name] = f"{_REFERENCE}{name}"
        if references:
            self._made.document["environment_variables"] = references

    def _plain_value(self, value: object, *, strictly: bool = False) -> Any:  # noqa: ANN401 -- any JSON
        """Returns a value with its texts decrypted; None where the key is not the one LiteLLM used.

        A text that no key decrypts may be plain, as LiteLLM takes it, if others beside it were decrypted;
        `strictly` takes no such text.
        """
        failed = [text for text in _texts([value]) if self._decrypted_text(text) is None]
        others = [text for text in _texts([value]) if text not in failed and _CIPHERTEXT.fullmatch(text)]
        if failed and (strictly or not others):
            return None
        return _mapped(
            value,
            lambda text: self._decrypted_text(text) or ("" if self._decrypted_text(text) == "" else text),
        )

    def _decrypted_text(self, text: str) -> str | None:
        return self._plain.get(text.removeprefix(_MARK)) if _CIPHERTEXT.fullmatch(text) else text

    def _referenced(self, value: object, owner: str, name: str = "") -> Any:  # noqa: ANN401 -- any JSON
        """Returns a value with a reference in the place of each secret."""
        if isinstance(value, dict):
            return {
                key: self._referenced(one, owner, f"{name}_{key}" if name else str(key))
                for key, one in cast("Json", value).items()
                if one is not None
            }
        if is_array(value):
            return [self._referenced(one, owner, name) for one in value]
        if not isinstance(value, str) or value.startswith(_REFERENCE) or not _is_secret(name, value):
            return value
        return f"{_REFERENCE}{self._variable(value, owner, name)}"

    def _variable(self, secret: str, owner: str, name: str) -> str:
        """Returns the variable that holds a secret; the same secret is held once."""
        if secret not in self._names_by_secret:
            base = re.sub(r"[^A-Z0-9]+", "_", f"{owner}_{name}".upper()).strip("_")
            base = base if base[:1].isalpha() and not base.startswith("LLM_PROXY") else f"IMPORTED_{base}"
            names = (base, *(f"{base}_{number}" for number in range(2, len(self._made.variables) + 3)))
            found = next(one for one in names if one not in self._made.variables)
            self._names_by_secret[secret], self._made.variables[found] = found, secret
        return self._names_by_secret[secret]


def _team(row: Json) -> object:
    return as_object(json_column(row.get("model_info"))).get("team_id")


def _is_secret(name: str, value: str) -> bool:
    if _URL_WITH_PASSWORD.match(value):
        return True
    return bool(value) and name not in _PLAIN_NAMES and _SECRET_NAME.search(name) is not None


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts(list(cast("Json", value).values()))
    elif isinstance(value, list):
        for one in cast("list[object]", value):
            yield from _texts(one)


def _mapped(value: object, change: Callable[[str], str]) -> Any:  # noqa: ANN401 -- any JSON
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(one, change) for key, one in cast("Json", value).items()}
    return [_mapped(one, change) for one in cast("list[object]", value)] if isinstance(value, list) else value


def _quoted(value: str) -> str:
    if _BARE.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
