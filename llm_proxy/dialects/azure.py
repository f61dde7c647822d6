"""Azure OpenAI's lists of models and deployments, as its clients read them.

Pure. Source: Azure OpenAI's data plane, `models` (2024-10-21) and `deployments` (2022-12-01), which newer
versions left out and clients still call.
"""

from collections.abc import Iterable

from llm_proxy.dialects.dialect import ListedModel
from llm_proxy.dialects.openai import render_model
from llm_proxy.endpoints import ENDPOINTS
from llm_proxy.json_access import Json


def render_models(listed: Iterable[ListedModel]) -> Json:
    """The list of models."""
    return {"object": "list", "data": [render_azure_model(model) for model in listed]}


def render_azure_model(model: ListedModel) -> Json:
    """One model: OpenAI's, with Azure's word for what it can do."""
    chats, completes, embeds = (
        ENDPOINTS[name].path in model.endpoints for name in ("chat.completions", "completions", "embeddings")
    )
    can = {"inference": True, "chat_completion": chats, "completion": completes, "embeddings": embeds}
    return render_model(model) | {
        "status": "succeeded",
        "lifecycle_status": "generally-available",
        "created_at": model.created,
        "capabilities": {**can, "fine_tune": False},
    }


def render_deployments(listed: Iterable[ListedModel]) -> Json:
    """The list of deployments: each model group is one."""
    return {"object": "list", "data": [render_deployment(model) for model in listed]}


def render_deployment(model: ListedModel) -> Json:
    """One deployment."""
    return {
        "id": model.name,
        "object": "deployment",
        "model": model.provider_model or model.name,
        "owner": "organization-owner",
        "status": "succeeded",
        "created_at": model.created,
        "updated_at": model.created,
        "scale_settings": {"scale_type": "standard"},
    }
