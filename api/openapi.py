"""The OpenAPI 3.1 document, made of the table of routes and of the models: it says what there is and nothing else."""

from __future__ import annotations

import re
from typing import Any

from pydantic.json_schema import models_json_schema

from ..installation import version
from . import models
from .routing import Call, Reply, Route

_ERRORS = {
    400: "A value is wrong; the text names it and what belongs there.",
    401: "The token is missing or wrong.",
    403: "A page of another site asked.",
    404: "There is no such thing.",
    409: "It does not fit the state of things, or the job failed.",
    413: "The body is too large.",
    415: "The body is no JSON.",
    429: "Too much was asked at once.",
    500: "A fault of the pack; ComfyUI's log says which.",
}
ONLY_POSTED = 202
_OF_BODIES = (413, 415)
_REFERENCE = "#/components/schemas/{model}"


def document(call: Call) -> Reply:
    from .table import ROUTES

    named = sorted({name for route in ROUTES for name in (route.body, route.answer) if name} | {"Error", "Posted"})
    _, schemas = models_json_schema([(getattr(models, name), "validation") for name in named], ref_template=_REFERENCE)
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(_path(route), {})[route.method.lower()] = _operation(route)
    return Reply(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Impasto",
                "version": version(),
                "description": "From paintings to a FLUX style LoRA, through ComfyUI's own queue. Every route is also "
                "there under /api. A token, where the server has one (IMPASTO_TOKEN), is sent as a bearer's.",
            },
            "paths": paths,
            "components": {
                "schemas": schemas["$defs"],
                "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            },
            "security": [{}, {"bearer": []}],
        }
    )


def _path(route: Route) -> str:
    return re.sub(r"\{(\w+)(:[^}]*)?\}", r"{\1}", route.path)


def _operation(route: Route) -> dict[str, Any]:
    told: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}{_path(route)}").strip("_"),
        "summary": route.summary,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in re.findall(r"\{(\w+)", route.path)
        ]
        + [
            {
                "name": query.name,
                "in": "query",
                "description": query.summary,
                "schema": {
                    "type": "integer",
                    "default": query.default,
                    "minimum": query.least,
                    "maximum": query.most,
                },
            }
            for query in route.query
        ],
        "responses": {str(status): _answer(route, status) for status in route.statuses}
        | {
            str(status): {"description": text, "content": {"application/json": {"schema": _of("Error")}}}
            for status, text in _ERRORS.items()
            if route.method != "GET" or status not in _OF_BODIES
        },
    }
    if route.body:
        content = {"application/json": {"schema": _of(route.body)}}
        told["requestBody"] = {"required": _needs_body(route), "content": content}
    return told


def _answer(route: Route, status: int) -> dict[str, Any]:
    if status == ONLY_POSTED and len(route.statuses) > 1:  # a job that a request need not wait for
        content = {"application/json": {"schema": _of("Posted")}}
        return {"description": "It is in the queue and was not waited for any longer.", "content": content}
    if route.media != "application/json":
        return {"description": route.summary, "content": {route.media: {}}}
    schema = _of(route.answer) if route.answer else {"type": "object"}
    return {"description": route.summary, "content": {"application/json": {"schema": schema}}}


def _needs_body(route: Route) -> bool:
    return any(field.is_required() for field in getattr(models, route.body).model_fields.values())


def _of(model: str) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=model)}
