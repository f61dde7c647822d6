"""Writes `docs/api/` from the OpenAPI page: `python scripts/api_reference.py`; `--check` only compares.

A page a group of routes: each with its parameters, body, answer and errors, fields in a table. What a table
refers to stands below it once, two levels deep; `/openapi.json` has all.
"""

import asyncio
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from llm_proxy.app import create_app
from llm_proxy.dialects.messages.dialect import MESSAGES
from llm_proxy.dialects.responses import responses_dialect
from llm_proxy.dialects.routes import inference_routes
from llm_proxy.edge.openapi_page import ERROR_RESPONSES, openapi_page
from llm_proxy.settings import Settings

Json = dict[str, Any]
FOLDER = Path(__file__).parents[1] / "docs" / "api"
GROUPS: dict[str, tuple[str, str]] = {
    "chat": ("Chat, completions, embeddings", r"/v1/(chat/completions|completions|embeddings|moderations)$"),
    "responses": ("Responses", r"/v1/responses"),
    "messages": ("Messages", r"/v1/messages"),
    "gemini": ("Gemini", r"/v1beta/"),
    "media": ("Images, audio, rerank, Cohere", r"/v1/(images|audio)/|/v\d/(rerank|embed)$"),
    "services": ("Older services", r"/internal/|/llm-proxy/"),
    "callers": (
        "Models, usage, limits",
        r"/v1/(models|model/info|usage|requests|runs|limits|explain|keys|calls|llm)|/key/info|/openai/(models|deployments)",
    ),
    "health": ("Health and metrics", r"/(health|metrics|$)"),
    "keys": (
        "Admin: keys, limits, budgets",
        r"/admin/(keys|tenants|admin-keys|limits|kill|budgets|simulate)",
    ),
    "operations": ("Admin: operations", r"/admin/"),
}
"""By file: title, and the paths of its routes; a route stands in the first group that it fits."""
MAX_DEPTH = 2
INDEX = """\
# API reference

Each page is generated from the gateway's OpenAPI page, `GET /openapi.json`, which any key may read.

| page | routes |
|---|---|
{rows}

## Credentials

A caller sends its key as `Authorization: Bearer KEY`; `x-api-key`, `api-key` and `x-goog-api-key` are read,
too, as the SDKs of Anthropic, Azure and Google send them.
Routes below `/admin` take an [admin key](../admin.md).

## Errors

An error is OpenAI's: `{{"error": {{"message": "…", "type": "…", "param": "…", "code": "…"}}}}`. Messages,
Gemini, Cohere and the older services have the shape that their clients read.

| status | meaning |
|---|---|
{errors}
"""
HEAD = """\
# {title}

Generated from the gateway's OpenAPI page, which has every schema whole: `GET /openapi.json` with any key.
**Bold** fields are required. A request may have further fields; they are passed on to the model's
provider where the gateway does not own them.
"""


@dataclass(slots=True)
class Writer:
    """Writes the tables of a page, each schema once."""

    schemas: Json
    waiting: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    written: set[str] = field(default_factory=set[str])
    names: dict[str, str] = field(default_factory=dict[str, str])

    def kind(self, schema: Json, depth: int) -> str:
        """Returns a type in words, and remembers what it refers to."""
        if reference := schema.get("$ref"):
            name = reference.rpartition("/")[2]
            return self._linked(name, depth)
        for word in ("anyOf", "oneOf", "allOf"):
            if word in schema:
                options = schema[word]
                if {"type": "string"} in options:  # any text: what is known of it says no more
                    options = [one for one in options if "enum" not in one and "const" not in one]
                return " or ".join(dict.fromkeys(self.kind(one, depth) for one in options))
        if "const" in schema:
            return f"`{_json(schema['const'])}`"
        if "enum" in schema:
            return " or ".join(f"`{_json(one)}`" for one in schema["enum"])
        kinds = schema.get("type", "anything")
        kinds = kinds if isinstance(kinds, list) else [kinds]
        return " or ".join(self._plain(kind, schema, depth) for kind in kinds)

    def _plain(self, kind: str, schema: Json, depth: int) -> str:
        if kind == "array" and schema.get("items"):
            return f"list of {self.kind(schema['items'], depth)}"
        return kind

    def _linked(self, name: str, depth: int) -> str:
        schema = self.schemas.get(name, {})
        if "properties" not in schema:
            return self.kind(schema, depth) if schema else "object"
        if depth >= MAX_DEPTH and name not in self.written:
            return "object"
        if name not in self.written:
            self.written.add(name)
            self.waiting.append((name, depth + 1))
        shown = self.shown(name)
        return f"[{shown}](#{shown.lower()})"

    def shown(self, name: str) -> str:
        """Returns a schema's name on this page: its last part, with a number where another has it."""
        if name not in self.names:
            short = re.split(r"__|_", name)[-1] or name
            times = sum(one.rstrip("0123456789") == short for one in self.names.values())
            self.names[name] = f"{short}{times + 1}" if times else short
        return self.names[name]

    def table(self, schema: Json, depth: int) -> Iterator[str]:
        """Yields the lines of a schema's fields; objects inside are flattened."""
        yield "| field | type |"
        yield "|---|---|"
        yield from self._rows(schema, "", depth)

    def _rows(self, schema: Json, prefix: str, depth: int) -> Iterator[str]:
        required = set(schema.get("required", ()))
        for name, one in schema.get("properties", {}).items():
            at = f"{prefix}{name}"
            shown = _name_cell(at, is_required=name in required)
            yield f"| {shown} | {_type_cell(self.kind(one, depth), one)} |"
            items = one.get("items")
            inner, inside = (items, f"{at}[].") if isinstance(items, dict) else (one, f"{at}.")
            if "properties" in inner:
                yield from self._rows(inner, inside, depth)

    def rest(self) -> Iterator[str]:
        """Yields the tables of what was referred to."""
        while self.waiting:
            name, depth = self.waiting.pop(0)
            yield f"\n### {self.shown(name)}\n"
            yield from self.table(self.schemas[name], depth)


def _json(value: Any) -> str:  # noqa: ANN401 -- JSON
    return orjson.dumps(value).decode()


def _name_cell(name: str, *, is_required: bool) -> str:
    return f"**`{name}`**" if is_required else f"`{name}`"


def _type_cell(kind: str, described: Json) -> str:
    text = ". ".join(one for one in (kind, described.get("description")) if one)
    return text.replace("|", "\\|").replace("\n", " ")


def page_of(document: Json, paths: list[str], title: str) -> str:
    """Returns the text of one page."""
    writer = Writer(document["components"]["schemas"])
    lines = [HEAD.format(title=title)]
    for path in paths:
        for method, operation in document["paths"][path].items():
            lines += _operation(writer, method.upper(), path, operation)
    rest = [*writer.rest()]
    if rest:
        lines += ["\n## Schemas", *rest]
    return "\n".join(lines).rstrip() + "\n"


def _operation(writer: Writer, method: str, path: str, operation: Json) -> Iterator[str]:
    yield f"\n## {method} {path}\n"
    yield f"{operation.get('summary', '')}\n"
    if parameters := operation.get("parameters"):
        yield "| parameter | in | type |"
        yield "|---|---|---|"
        for one in parameters:
            shown = _name_cell(one["name"], is_required=one.get("required", False))
            kind = writer.kind(one.get("schema", {}), 0)
            yield f"| {shown} | {one['in']} | {_type_cell(kind, one)} |"
        yield ""
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"Body, `{media}`:\n"
        yield from _schema(writer, content["schema"])
    for status, answer in operation["responses"].items():
        if status.startswith("2"):
            yield from _answer(writer, status, answer)
    errors = [status for status in operation["responses"] if not status.startswith("2")]
    if errors:
        yield f"Errors: {', '.join(errors)}; [what each means](index.md#errors).\n"


def _answer(writer: Writer, status: str, answer: Json) -> Iterator[str]:
    if not answer.get("content"):
        yield f"Answer {status}: no body.\n"
    for media, content in answer.get("content", {}).items():
        schema = content["schema"]
        yield f"Answer {status}, `{media}`:\n"
        if event := schema.get("x-event"):
            yield f"Events, each {writer.kind(event, 0)}.\n"
        else:
            yield from _schema(writer, schema)


def _schema(writer: Writer, schema: Json) -> Iterator[str]:
    if "$ref" in schema:
        found = writer.schemas[schema["$ref"].rpartition("/")[2]]
        schema = found if "properties" in found else schema
    if "properties" in schema:
        yield from writer.table(schema, 0)
    else:
        yield writer.kind(schema, 0)
    yield ""


async def document() -> Json:
    """Returns the OpenAPI page of a gateway with a database, which belongs to the running loop."""
    settings = Settings(
        environment="development", database_url="postgresql://none/none", limits_redis_url="redis://none"
    )
    gateway: Any = create_app(settings)
    management = gateway.asgi._management  # noqa: SLF001 -- the application that the page describes
    table = inference_routes(responses_dialect(None), MESSAGES)
    found: Json = orjson.loads(openapi_page(management, table))
    return found


def pages() -> dict[str, str]:
    """Returns the text of each page, by its file's name."""
    made = asyncio.run(document())
    left = [path for path in made["paths"] if not _is_alias(path)]
    found: dict[str, str] = {}
    rows: list[str] = []
    for name, (title, pattern) in GROUPS.items():
        paths = [path for path in left if re.match(pattern, path)]
        left = [path for path in left if path not in paths]
        found[f"{name}.md"] = page_of(made, paths, title)
        rows.append(f"| [{title}]({name}.md) | {', '.join(f'`{path}`' for path in paths)} |")
    errors = (f"| {status} | {text} |" for status, text in ERROR_RESPONSES.items())
    found["index.md"] = INDEX.format(rows="\n".join(rows), errors="\n".join(errors))
    if left:
        raise ValueError(f"paths without a page: {left}")
    return found


def _is_alias(path: str) -> bool:
    """Whether a path is another name of one that is shown."""
    return path.startswith("/openai/deployments/") or bool(
        re.match(
            r"/(chat/completions|completions|embeddings|rerank|moderations|responses|messages|audio|images)\b",
            path,
        )
        or re.match(r"/v1/models/\{model\}:|/v2/rerank$|/v1/llm/", path)
    )


def main() -> int:
    """Writes the pages, or compares them."""
    made = pages()
    if "--check" in sys.argv[1:]:
        return int({path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")} != made)
    FOLDER.mkdir(exist_ok=True)
    for name, text in made.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
