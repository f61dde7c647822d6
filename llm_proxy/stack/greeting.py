"""What a person reads when the stack is ready: the address, where the key is, and two examples to paste.

Invariants: the key itself is never shown, the examples read it from where it lies; Python's lines begin at
the margin, for a prompt takes them no other way.
"""

from dataclasses import dataclass, field

from llm_proxy.stack.first_secrets import INTERNAL_KEY
from llm_proxy.stack.surroundings import Surroundings

KEY_NAMES = (INTERNAL_KEY, "LLM_PROXY_SECRET")

TEXT = """
llm-proxy is ready after {seconds:.1f} s.

  base_url   {base_url}
  key        {key.place}
  model      {model}
  logs       {logs}

Paste into another terminal:

  curl -s {base_url}/chat/completions \\
    -H "Authorization: Bearer {key.in_shell}" -H 'Content-Type: application/json' \\
    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "What is the capital of France?"}}]}}'

Or into Python, after `pip install openai`:

{key.in_python}
from openai import OpenAI
client = OpenAI(base_url="{base_url}", api_key=key)
question = [{{"role": "user", "content": "What is the capital of France?"}}]
print(client.chat.completions.create(model="{model}", messages=question).choices[0].message.content)

Ctrl-C stops everything.
"""


@dataclass(frozen=True, slots=True)
class KeyPlace:
    """Where the internal key lies, in words, in a shell, and in Python.

    Attributes:
        key: The key itself, for the launcher's own use.
    """

    key: str = field(repr=False)
    place: str
    in_shell: str
    in_python: str


def key_place(given: Surroundings) -> KeyPlace:
    """Where this start found the internal key; of several keys the first is used."""
    name = next(name for name in KEY_NAMES if name in given.names)
    file = given.files.get(name)
    key = given.names[name].partition(",")[0].strip()
    if file is None:
        in_python = f'import os; key = os.environ["{name}"].split(",")[0]'
        return KeyPlace(key, f"{name} in the environment", f"${{{name}%%,*}}", in_python)
    path = file.absolute()
    if file.name == ".env":
        in_python = f'import re; key = re.search("(?m)^{name}=([^,\\\\n]+)", open("{path}").read())[1]'
        return KeyPlace(
            key, f"{name} in {path}", f"$(sed -n 's/^{name}=\\([^,]*\\).*/\\1/p' {path})", in_python
        )
    in_python = f'key = open("{path}").read().strip().split(",")[0]'
    return KeyPlace(key, str(path), f"$(cut -d, -f1 {path})", in_python)


def greeting(base_url: str, model: str, logs: str, given: Surroundings, seconds: float) -> str:
    """The whole text."""
    return TEXT.format(base_url=base_url, key=key_place(given), model=model, logs=logs, seconds=seconds)
