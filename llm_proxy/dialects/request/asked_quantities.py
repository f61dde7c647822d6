"""What a body asks for beside tokens: the basis of its reservation, before any answer says what was used."""

from llm_proxy.dialects.request.audio_length import audio_ms
from llm_proxy.dialects.request.rerank_schema import DOCUMENTS_PER_SEARCH_UNIT
from llm_proxy.endpoints import TRANSCRIPTS, Endpoint
from llm_proxy.json_access import Json, as_list
from llm_proxy.quantities import NOTHING, Quantities
from llm_proxy.uploads import UploadedFile


def asked_quantities(endpoint: Endpoint, fields: Json, files: tuple[UploadedFile, ...]) -> Quantities:
    """Returns the images, audio, characters or search units that validated fields and files ask for."""
    if endpoint == "rerank":
        documents = len(as_list(fields["documents"]))
        return Quantities(search_units=-(-documents // DOCUMENTS_PER_SEARCH_UNIT))
    if endpoint == "audio.speech":
        return Quantities(characters=len(fields["input"]))
    if endpoint in TRANSCRIPTS:
        return Quantities(audio_ms=sum(audio_ms(one.head, one.size_bytes) for one in files))
    if endpoint in ("images.generations", "images.edits"):
        return Quantities(images=fields.get("n", 1))
    return NOTHING
