"""What a body requests beside tokens: the basis of its reservation, before any answer says what was used."""

from collections.abc import Callable

from llm_proxy.dialects.request.audio_length import audio_ms
from llm_proxy.dialects.request.rerank_schema import DOCUMENTS_PER_SEARCH_UNIT
from llm_proxy.endpoints import Endpoint
from llm_proxy.json_access import Json, as_list
from llm_proxy.quantities import NOTHING, Quantities
from llm_proxy.uploads import UploadedFile

Files = tuple[UploadedFile, ...]


def requested_quantities(endpoint: Endpoint, fields: Json, files: Files) -> Quantities:
    """Returns the images, audio, characters or search units that validated fields and files request."""
    count = _REQUESTED.get(endpoint)
    return count(fields, files) if count is not None else NOTHING


def _search_units(fields: Json, _: Files) -> Quantities:
    documents = len(as_list(fields["documents"]))
    return Quantities(search_units=-(-documents // DOCUMENTS_PER_SEARCH_UNIT))


def _characters(fields: Json, _: Files) -> Quantities:
    return Quantities(characters=len(fields["input"]))


def _images(fields: Json, _: Files) -> Quantities:
    return Quantities(images=fields.get("n", 1))


def _audio_ms(_: Json, files: Files) -> Quantities:
    """Never nothing: an empty file, and a body that is explained without its files, have a price too."""
    return Quantities(audio_ms=max(1, sum(audio_ms(one.head, one.size_bytes) for one in files)))


_REQUESTED: dict[Endpoint, Callable[[Json, Files], Quantities]] = {
    "rerank": _search_units,
    "audio.speech": _characters,
    "audio.transcriptions": _audio_ms,
    "audio.translations": _audio_ms,
    "images.generations": _images,
    "images.edits": _images,
}
