"""Where the programs and models that arrive in wheels lie on disk.

Invariant: nothing is imported to find it, so a wheel whose own imports are missing still serves its data.
"""

import importlib.metadata
import importlib.util
from pathlib import Path


class Missing(Exception):  # noqa: N818 -- errors are named for the state they report
    """A part of the stack is not installed; the message says what to type."""


def folder_of(package: str) -> Path:
    """The folder an installed package lies in; raises `Missing` when it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise Missing(f"the wheel of `{package}` is not installed here: run `make setup` first")
    return Path(spec.submodule_search_locations[0])


def file_of(package: str, pattern: str) -> Path:
    """The first file of an installed package that matches; raises `Missing` when there is none."""
    folder = folder_of(package)
    found = next(folder.glob(pattern), None)
    if found is None:
        raise Missing(f"`{package}` holds no {pattern} for this machine: run `make setup` again")
    return found


def openmp_folder() -> Path | None:
    """Where the OpenMP library of the `cmeel-libomp` wheel lies; None when that wheel is not installed."""
    try:
        found = importlib.metadata.distribution("cmeel-libomp").locate_file("cmeel.prefix/lib")
    except importlib.metadata.PackageNotFoundError:
        return None
    return Path(str(found))
