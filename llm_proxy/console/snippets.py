"""A call of the playground as a program: curl, Python with the maker's SDK, Node without one.

Invariants: pure; no snippet holds a key, each reads it from `LLM_PROXY_KEY`; a text of the caller stays a
text in every language. Files are named, not enclosed.
"""

import pprint
import shlex
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import orjson

from llm_proxy.console.playground_call import GEMINI_PREFIX, MESSAGES_PATH, PlaygroundCall
from llm_proxy.json_access import Json, as_list, as_object

KEY_VARIABLE = "LLM_PROXY_KEY"
SPEECH_PATH = "/v1/audio/speech"
_OPENAI_METHODS = {
    "/v1/chat/completions": "chat.completions.create",
    "/v1/responses": "responses.create",
    "/v1/completions": "completions.create",
    "/v1/embeddings": "embeddings.create",
    "/v1/moderations": "moderations.create",
    "/v1/images/generations": "images.generate",
    "/v1/images/edits": "images.edit",
    "/v1/audio/speech": "audio.speech.create",
    "/v1/audio/transcriptions": "audio.transcriptions.create",
    "/v1/audio/translations": "audio.translations.create",
}
_ARGUMENTS = frozenset({"model", "messages", "input", "prompt", "stream", "voice", "instructions"})
"""Arguments that the methods have; every other field goes into `extra_body`, which takes any."""
_ANTHROPIC_ARGUMENTS = frozenset(
    {"model", "messages", "system", "max_tokens", "stream", "tools", "temperature"}
)
_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Snippet:
    """A program, and what it needs beside its language."""

    language: str
    needs: str
    text: str


def snippets_of(call: PlaygroundCall, base_url: str) -> tuple[Snippet, ...]:
    """Returns the programs that make a call at a gateway, whose address has no `/v1`."""
    return (
        Snippet("curl", "", _curl(call, base_url)),
        Snippet("Python", f"pip install {_python_sdk(call)}", _python(call, base_url)),
        Snippet("Node", "", _node(call, base_url)),
    )


def _curl(call: PlaygroundCall, base_url: str) -> str:
    quiet = "curl -N" if call.is_streamed else "curl"
    lines = [
        f"{quiet} {shlex.quote(base_url + call.path)}",
        f'  -H "Authorization: Bearer ${KEY_VARIABLE}"',
    ]
    if call.path == MESSAGES_PATH:
        lines.append("  -H 'anthropic-version: 2023-06-01'")
    if call.file is None:
        body = orjson.dumps(call.body, option=orjson.OPT_INDENT_2).decode()
        lines += ["  -H 'Content-Type: application/json'", f"  -d {shlex.quote(body)}"]
    else:
        fields = (f"{name}={value}" for name, value in call.form_fields().items())
        lines += [f"  --form-string {shlex.quote(one)}" for one in fields]
        lines.append(f"  -F {shlex.quote(f'{call.file_field}=@{call.file.name}')}")
    if call.path == SPEECH_PATH:
        lines.append("  -o speech.mp3")
    return " \\\n".join(lines)


def _python_sdk(call: PlaygroundCall) -> str:
    if call.path.startswith(GEMINI_PREFIX):
        return "google-genai"
    return "anthropic" if call.path == MESSAGES_PATH else "openai"


def _python(call: PlaygroundCall, base_url: str) -> str:
    if call.path.startswith(GEMINI_PREFIX):
        return _python_gemini(call, base_url)
    if call.path == MESSAGES_PATH:
        head = ["import os", "", "from anthropic import Anthropic", ""]
        client = f'client = Anthropic(base_url={base_url!r}, api_key=os.environ["{KEY_VARIABLE}"])'
        method, known = "messages.create", _ANTHROPIC_ARGUMENTS
    else:
        head = ["import os", "", "from openai import OpenAI", ""]
        client = f'client = OpenAI(base_url={base_url + "/v1"!r}, api_key=os.environ["{KEY_VARIABLE}"])'
        method, known = _OPENAI_METHODS.get(call.path, ""), _ARGUMENTS
    made = _python_method(call, method, known) if method else _python_post(call)
    return "\n".join([*head, client, made, *_python_print(call)]) + "\n"


def _python_gemini(call: PlaygroundCall, base_url: str) -> str:
    model = unquote(call.path.removeprefix(GEMINI_PREFIX).rpartition(":")[0])
    more = {name: value for name, value in call.body.items() if name not in ("contents", "generationConfig")}
    config = {**as_object(call.body.get("generationConfig")), **more}
    options = f'http_options={{"base_url": {base_url!r}}}'
    method = "generate_content_stream" if call.is_streamed else "generate_content"
    lines = [
        "import os",
        "",
        "from google import genai",
        "",
        f'client = genai.Client(api_key=os.environ["{KEY_VARIABLE}"], {options})',
        f"answer = client.models.{method}(",
        f"    model={model!r},",
        f"    contents={_python_value(call.body.get('contents'))},",
        *([f"    config={_python_value(config)},"] if config else []),
        ")",
        *_python_print(call),
    ]
    return "\n".join(lines) + "\n"


def _python_method(call: PlaygroundCall, method: str, known: frozenset[str]) -> str:
    named = [f"    {name}={_python_value(value)}," for name, value in call.body.items() if name in known]
    if call.file is not None:
        named.append(f'    {call.file_field}=open({call.file.name!r}, "rb"),')
    more = {name: value for name, value in call.body.items() if name not in known}
    if more:
        named.append(f"    extra_body={_python_value(more)},")
    return "\n".join([f"answer = client.{method}(", *named, ")"])


def _python_post(call: PlaygroundCall) -> str:
    path = call.path.removeprefix("/v1")
    return f"answer = client.post({path!r}, cast_to=object, body={_python_value(call.body)})"


def _python_value(value: object) -> str:
    lines = pprint.pformat(value, width=_WIDTH, sort_dicts=False).splitlines()
    return "\n".join([lines[0], *(f"    {line}" for line in lines[1:])])


def _python_print(call: PlaygroundCall) -> list[str]:
    if call.path == SPEECH_PATH:
        return ['answer.write_to_file("speech.mp3")']
    if call.is_streamed:
        return ["for event in answer:", "    print(event)"]
    return ["print(answer)"]


def _node(call: PlaygroundCall, base_url: str) -> str:
    speaks = call.path == SPEECH_PATH
    imports = [
        *(['import { openAsBlob } from "node:fs";'] if call.file is not None else []),
        *(['import { writeFile } from "node:fs/promises";'] if speaks else []),
    ]
    lines = [*imports, *([""] if imports else []), *_node_body(call)]
    headers = [f"authorization: `Bearer ${{process.env.{KEY_VARIABLE}}}`"]
    if call.file is None:
        headers.append('"content-type": "application/json"')
    if call.path == MESSAGES_PATH:
        headers.append('"anthropic-version": "2023-06-01"')
    lines += [
        f"const response = await fetch({orjson.dumps(base_url + call.path).decode()}, {{",
        '  method: "POST",',
        f"  headers: {{ {', '.join(headers)} }},",
        "  body,",
        "});",
    ]
    if call.is_streamed:
        lines += ["for await (const chunk of response.body) {", "  process.stdout.write(chunk);", "}"]
    elif speaks:
        lines.append('await writeFile("speech.mp3", Buffer.from(await response.arrayBuffer()));')
    else:
        lines.append("console.log(await response.text());")
    return "\n".join(lines) + "\n"


def _node_body(call: PlaygroundCall) -> list[str]:
    if call.file is None:
        text = orjson.dumps(call.body, option=orjson.OPT_INDENT_2).decode()
        return [f"const body = JSON.stringify({text});"]
    fields = [
        f"body.append({orjson.dumps(name).decode()}, {orjson.dumps(value).decode()});"
        for name, value in call.form_fields().items()
    ]
    field, name = (orjson.dumps(one).decode() for one in (call.file_field, call.file.name))
    return [
        "const body = new FormData();",
        *fields,
        f"body.append({field}, await openAsBlob({name}), {name});",
    ]


def shown_body(body: Json) -> str:
    """Returns a body as JSON that reads well; long texts, as those of files, are cut."""
    return orjson.dumps(_cut(body), option=orjson.OPT_INDENT_2).decode()


_MAX_TEXT_CHARS = 2_000


def _cut(value: Any) -> object:  # noqa: ANN401 -- JSON
    if isinstance(value, str) and len(value) > _MAX_TEXT_CHARS:
        return f"{value[:_MAX_TEXT_CHARS]}… ({len(value)} characters)"
    if isinstance(value, dict):
        return {name: _cut(one) for name, one in as_object(value).items()}  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(value, list):
        return [_cut(one) for one in as_list(value)]  # pyright: ignore[reportUnknownArgumentType]
    return value
