"""Leaves out of LiteLLM's import what calls do not use: it is imported, or built, when it is first used.

Invariants: a name of a deferred module behaves as the module's own. After the import every module can be
imported as usual, and the models that calls use are built: processes forked from this one share them.
"""

import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Union

from llm_proxy.sidecar.litellm_internals import Untyped

DEFERRED = (
    *("openai.types.beta.", "openai.types.admin.", "openai.resources.beta.", "openai.resources.admin."),
    *("mcp_types._v2", "soundfile."),
)
"""Assistants, administration, messages of MCP, sound that passes through: no call has any of these."""
MODULES_OF_CALLS = (
    *("litellm.types.utils", "litellm.types.router", "litellm.types.proxy.auth.user_api_key_auth"),
    *("litellm.types.llms.openai", "litellm.types.rerank"),
)
"""Their models are what calls are made of."""


class DeferredName:
    """Stands for a name of a module that is imported when the name is used."""

    def __init__(self, module: str, name: str) -> None:
        self.__module__, self.__name__, self.__qualname__ = module, name, name

    def __getattr__(self, name: str) -> Untyped:
        if name.startswith("__"):  # what typing and pydantic ask of everything
            raise AttributeError(name)
        return getattr(_find(self), name)

    def __call__(self, *args: Untyped, **named: Untyped) -> Untyped:
        """Do what the name's own would."""
        return _find(self)(*args, **named)

    def __getitem__(self, item: Untyped) -> Untyped:
        return _find(self)[item]

    def __or__(self, other: Untyped) -> Untyped:
        return Union[self, other]  # noqa: UP007 -- `|` is this method

    def __ror__(self, other: Untyped) -> Untyped:
        return Union[other, self]  # noqa: UP007 -- the same

    def __mro_entries__(self, bases: tuple[Untyped, ...]) -> tuple[Untyped, ...]:
        return (_find(self),)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, _find(self))

    def __subclasscheck__(self, subclass: type) -> bool:
        return issubclass(subclass, _find(self))

    def __get_pydantic_core_schema__(self, _: object, handler: Untyped) -> Untyped:
        return handler.generate_schema(_find(self))


class _DeferredModule(ModuleType):
    def __getattr__(self, name: str) -> DeferredName:
        if name.startswith("__"):
            raise AttributeError(name)
        return DeferredName(self.__name__, name)


class _DeferredModules(Loader):
    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        if f"{fullname}.".startswith(DEFERRED):
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _DeferredModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leaves the module empty."""


_finder = _DeferredModules()


@contextmanager
def deferring() -> Generator[None]:
    """Defers, while the block imports LiteLLM, `DEFERRED` and the building of models."""
    sys.meta_path.insert(0, _finder)
    with _models_built_later():
        try:
            yield
        finally:
            _import_as_usual()
    build_models(MODULES_OF_CALLS)


@contextmanager
def _models_built_later() -> Generator[None]:
    """Pydantic builds the validators of the block's models when they are first used."""
    defaults = import_module("pydantic._internal._config").config_defaults
    adapter: Untyped = import_module("pydantic").TypeAdapter
    usual: Untyped = adapter.__dict__["_defer_build"]
    defaults["defer_build"], adapter._defer_build = True, True  # noqa: SLF001 -- no setting does this
    try:
        yield
    finally:
        defaults["defer_build"], adapter._defer_build = False, usual  # noqa: SLF001 -- the same


def build_models(modules: Iterable[str]) -> None:
    """Build the validators of the models that these modules define."""
    base: Untyped = import_module("pydantic").BaseModel
    for module in modules:
        names: list[Untyped] = list(vars(import_module(module)).values())
        for model in names:
            if isinstance(model, type) and issubclass(model, base) and model.__module__ == module:
                base.model_rebuild.__func__(model, raise_errors=False)


def _import_as_usual() -> None:
    if _finder not in sys.meta_path:
        return
    sys.meta_path.remove(_finder)
    for name in [one for one, module in sys.modules.items() if isinstance(module, _DeferredModule)]:
        del sys.modules[name]


def _find(deferred: DeferredName) -> Untyped:
    """Return what the name stands for; one that the import itself uses ends the deferring."""
    _import_as_usual()
    return getattr(import_module(deferred.__module__), deferred.__name__)
