"""The OpenAPI document: FastAPI's, with the bodies of requests and the limits of this service."""

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from pydantic_core import to_json

from recvae import __version__
from recvae.files import JsonObject
from recvae.serving import schema
from recvae.serving.problems import MEDIA_TYPE
from recvae.serving.settings import Settings

_REF = "#/components/schemas/{model}"
_BODIES: dict[str, type[BaseModel]] = {
    "recommend": schema.Recommend,
    "batch": schema.Batch,
    "similar": schema.Similar,
}
_ANSWERS: dict[str, tuple[object, str]] = {
    "recommend": (schema.Recommended, "List the items that come next for a history"),
    "batch": (schema.Answers, "Answer several questions, each with an answer or a problem of its own"),
    "similar": (schema.SimilarItems, "List the items most like one"),
    "items": (schema.Items, "Find items by a text, or name them by their ids"),
    "model": (schema.About, "Say what the model is and can do"),
    "models": (list[schema.Named], "List the models, the default first"),
    "live": (schema.Health, "Say that the process runs"),
    "ready": (schema.Health, "Say whether the service takes requests"),
    "metrics": (None, "Figures for Prometheus"),
    "openapi": (None, "This document"),
}
_OPEN = ("live", "ready")  # no token is asked for
_NOT_FOUND = {
    "items": (400, 422, 431),
    "model": (),
    "models": (),
    "metrics": (),
    "openapi": (),
    "live": (),
    "ready": (503,),
}
_OF_BODIES = (400, 408, 413, 415, 422, 431, 500, 503)
_PARAMETERS = {
    "items": [
        ("q", {"type": "string"}, "A part of a title or id."),
        ("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 20}, "Items to list."),
        ("id", {"type": "array", "items": {"type": "string"}, "maxItems": 1000}, "Ids of items; may be repeated."),
    ]
}


def described(name: str, path: str) -> JsonObject:
    """Return the arguments with which FastAPI describes the route called ``name`` at ``path``."""
    answer, summary = _ANSWERS[name]
    statuses = _OF_BODIES if name in _BODIES else _NOT_FOUND[name]
    statuses += () if name in _OPEN else (401,)
    statuses += (404,) if name == "similar" or "{name}" in path else ()
    extra: JsonObject = {}
    if name in _BODIES:
        reference = {"$ref": _REF.format(model=_BODIES[name].__name__)}
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference}}}
    parameters = [
        {"name": one, "in": "query", "required": False, "schema": form, "description": about}
        for one, form, about in _PARAMETERS.get(name, ())
    ]
    if "{name}" in path:
        about = "The model's name."
        parameters.append(
            {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}, "description": about}
        )
    if parameters:
        extra["parameters"] = parameters
    if name not in _OPEN:
        extra["security"] = [{"token": []}]
    problem = {"content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}}}
    responses: dict[int | str, JsonObject] = {
        status: {"description": "A problem", **problem} for status in sorted(statuses)
    }
    if name == "metrics":
        responses[200] = {"description": "The figures", "content": {"text/plain": {"schema": {"type": "string"}}}}
    elif name == "openapi":
        responses[200] = {
            "description": "The document",
            "content": {"application/json": {"schema": {"type": "object"}}},
        }
    place = "_of_model" if "{name}" in path else ""
    return {
        "response_model": answer,
        "summary": summary,
        "operation_id": f"{name}{place}{'_about' if path.endswith('}/model') else ''}",
        "responses": responses,
        "openapi_extra": extra,
    }


def document(app: FastAPI, settings: Settings) -> bytes:
    """Return the OpenAPI document of an application's routes as JSON."""
    app.version = __version__
    found = app.openapi()
    kinds = [(kind, "validation") for kind in (*_BODIES.values(), schema.Problem)]
    _, definitions = models_json_schema(kinds, ref_template=_REF)  # type: ignore[arg-type]  # kinds are pairs of a class and its mode
    schemas = found.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(definitions["$defs"])
    for kind in ("Recommend", "Similar"):
        schemas[kind]["properties"]["k"]["maximum"] = settings.max_k
    properties = schemas["Recommend"]["properties"]
    properties["history"]["maxItems"] = settings.max_history
    properties["reasons"]["maximum"] = settings.max_reasons
    queries = schemas["Batch"]["properties"]["queries"]
    queries["maxItems"] = settings.max_batch
    queries["items"] = {"anyOf": [queries["items"], {"description": "Anything else gets a problem of its own."}]}
    found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    if settings.token is None:
        del found["components"]["securitySchemes"]
        for operations in found["paths"].values():
            for operation in operations.values():
                operation.pop("security", None)
    return to_json(found)
