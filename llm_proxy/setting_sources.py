"""Sources of settings beside pydantic's own: files that a variable names, addresses in several variables.

Invariants: what a source before has set stays; only a setting's own names are read; an error names the
variable and never its value.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import AliasChoices, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

from llm_proxy.secret_files import FILE_SUFFIX, SecretFileUnreadable, read_secret_file
from llm_proxy.service_urls import InvalidURL
from llm_proxy.store_variables import SPLIT_VARIABLES, database_url_of, redis_url_of

PREFIX = "LLM_PROXY__"


def names_of(settings: type[BaseSettings], field: str) -> list[str]:
    """The variables that set a field, the prefixed one first."""
    alias = settings.model_fields[field].validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else []
    return [str(one) for one in choices] or [f"{PREFIX}{field.upper()}"]


def is_secret(field: FieldInfo) -> bool:
    """Whether a field's value is kept out of sight."""
    return SecretStr in (field.annotation, *get_args(field.annotation))


class NamedFiles(PydanticBaseSettingsSource):
    """The settings that are not set yet, from the files that `NAME_FILE` of a source names."""

    def __init__(self, settings_cls: type[BaseSettings], source: EnvSettingsSource) -> None:
        super().__init__(settings_cls)
        self._source = source

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 -- pydantic's
        """No single field is read."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """The values; raises `ValidationError`."""
        found: dict[str, Any] = {}
        for field in self.settings_cls.model_fields:
            names = names_of(self.settings_cls, field)
            if any(one in self.current_state for one in (field, *names)):
                continue
            texts = (read_named_file(name, self._source.env_vars) for name in names)
            if text := next(filter(None, texts), None):
                found[names[0] if self.settings_cls.model_fields[field].validation_alias else field] = text
        return found


def read_named_file(name: str, variables: Mapping[str, str | None]) -> str | None:
    """The text of the file that `NAME_FILE` names; None without one; raises `ValidationError`."""
    variable = f"{name}{FILE_SUFFIX}"
    path = variables.get(variable.lower())
    try:
        return read_secret_file(variable, path) if path else None
    except SecretFileUnreadable as fault:
        told = PydanticCustomError("file", "{reason}", {"reason": str(fault).partition(": ")[2]})
        raise ValidationError.from_exception_data(
            "Settings", [{"type": told, "loc": (variable,), "input": None}]
        ) from None


_SPLIT_ADDRESSES = (
    ("database_url", database_url_of),
    ("limits_redis_url", redis_url_of),
    ("cache_redis_url", redis_url_of),
)


class SplitAddresses(PydanticBaseSettingsSource):
    """The addresses of stores that are set in several variables, such as `DATABASE_HOST`."""

    def __init__(self, settings_cls: type[BaseSettings], *sources: EnvSettingsSource) -> None:
        """Later sources win over earlier ones, and all over `.keys/`."""
        super().__init__(settings_cls)
        self._sources = sources

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 -- pydantic's
        """No single field is read."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """The addresses; raises `ValidationError`."""
        variables: dict[str, str] = {}
        for name in SPLIT_VARIABLES:
            file = Path(".keys", name)
            if file.is_file():
                variables[name] = file.read_text(encoding="utf-8").strip()
        for source in self._sources:
            given = {name.upper(): value for name, value in source.env_vars.items() if value}
            files = {name: read_named_file(name, source.env_vars) for name in SPLIT_VARIABLES - given.keys()}
            variables |= given | {name: text for name, text in files.items() if text}
        found: dict[str, Any] = {}
        for name, read in _SPLIT_ADDRESSES:
            if any(one in self.current_state for one in (name, *names_of(self.settings_cls, name))):
                continue
            try:
                found[names_of(self.settings_cls, name)[0]] = read(variables)
            except InvalidURL as fault:
                told = PydanticCustomError("url", "{reason}", {"reason": str(fault)})
                raise ValidationError.from_exception_data(
                    "Settings", [{"type": told, "loc": (name,), "input": None}]
                ) from None
        return {name: value for name, value in found.items() if value is not None}
