"""Variables whose value is in a file that `NAME_FILE` names, as Docker and Kubernetes mount secrets.

Invariants: a value in a variable wins over the file; no value is in an error; white space around a file's
text is no part of it.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

FILE_SUFFIX = "_FILE"
SECRET_NAME = re.compile(r"\w+_(KEY|KEY_ID|TOKEN|SECRET|PASSWORD|URL|WEBHOOKS)|PGPASSWORD")
"""Variables whose `NAME_FILE` is read wherever it occurs."""
OTHERS_FILES = frozenset({"AWS_WEB_IDENTITY_TOKEN_FILE"})
"""Names of this form that mean something else to the program that reads them."""


class SecretFileUnreadable(Exception):  # noqa: N818 -- errors are named for the state they report
    """A file that a variable names cannot be read; the message is one line with the variable's name."""


def read_secret_file(variable: str, path: str) -> str:
    """Return the text of the file that the variable `NAME_FILE` names; raises `SecretFileUnreadable`."""
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise SecretFileUnreadable(f"{variable}: {path} is not UTF-8") from None
    except OSError as fault:
        raise SecretFileUnreadable(f"{variable}: {path} cannot be read: {fault.strerror}") from None
    if not text or "\0" in text:
        raise SecretFileUnreadable(f"{variable}: {path} holds {'no value' if not text else 'a null byte'}")
    return text


def read_secret_files(variables: Mapping[str, str], names: re.Pattern[str] = SECRET_NAME) -> dict[str, str]:
    """Return the values of variables that are not set and that a `NAME_FILE` of these stands for.

    Args:
        variables: By name.
        names: The variables that may be read from files.

    Raises:
        SecretFileUnreadable: A file cannot be read.
    """
    return {
        name: read_secret_file(variable, variables[variable])
        for name, variable in _named_files(variables, names)
        if not variables.get(name)
    }


def _named_files(variables: Mapping[str, str], names: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    for variable, path in variables.items():
        name = variable.removesuffix(FILE_SUFFIX)
        if name != variable and path and variable not in OTHERS_FILES and names.fullmatch(name):
            yield name, variable
