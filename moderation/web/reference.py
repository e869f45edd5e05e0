"""The API reference at `/docs`: the OpenAPI document as a page, without scripts or anything from other sites."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from markupsafe import Markup, escape

from moderation.web.console.pages import PageRoute, render

router = APIRouter(route_class=PageRoute, include_in_schema=False)

_SCHEMAS = "#/components/schemas/"
#: Limits of a value, in JSON Schema's words and in ours.
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
}


@dataclass(frozen=True)
class Field:
    """A parameter of a call, or a field of an object."""

    name: str
    #: With links to the objects in it.
    type: Markup
    required: bool
    description: Markup
    #: For a parameter: `query`, `path` or `header`.
    place: str = ""


@dataclass(frozen=True)
class DocumentedAnswer:
    status: str
    description: Markup
    #: Empty when it has no body.
    type: Markup


@dataclass(frozen=True)
class Call:
    anchor: str
    method: str
    path: str
    summary: str
    description: Markup
    parameters: tuple[Field, ...]
    #: The request's body. Empty without one.
    body: Markup
    answers: tuple[DocumentedAnswer, ...]


@dataclass(frozen=True)
class Shape:
    """An object in a request or an answer."""

    name: str
    description: Markup
    fields: tuple[Field, ...]


@router.get("/docs")
def show_reference(request: Request) -> Response:
    document = request.app.openapi()
    return render(
        "reference.html",
        visitor=None,
        version=request.app.version,
        summary=document["info"]["summary"],
        calls=list(_calls(document["paths"])),
        told=list(_calls(document["webhooks"])),
        shapes=[_shape(*item) for item in sorted(document["components"]["schemas"].items())],
    )


def _calls(paths: Mapping[str, Mapping[str, Any]]) -> Iterator[Call]:
    for path, methods in paths.items():
        for method, call in methods.items():
            yield Call(
                anchor="-".join(re.findall(r"\w+", f"{method} {path}")),
                method=method.upper(),
                path=path,
                summary=call.get("summary", ""),
                description=_prose(call.get("description", "")),
                parameters=tuple(_parameter(parameter) for parameter in call.get("parameters", ())),
                body=_content(call.get("requestBody", {})),
                answers=tuple(
                    DocumentedAnswer(status, _prose(answer["description"]), _content(answer))
                    for status, answer in sorted(call["responses"].items())
                ),
            )


def _parameter(parameter: Mapping[str, Any]) -> Field:
    said = parameter.get("description", parameter["schema"].get("description", ""))
    return Field(
        parameter["name"],
        _type(parameter["schema"]),
        parameter.get("required", False),
        _prose(said),
        parameter["in"],
    )


def _content(message: Mapping[str, Any]) -> Markup:
    types = [_type(content.get("schema", {})) for content in message.get("content", {}).values()]
    return Markup(", ").join(kind for kind in types if kind)


def _shape(name: str, schema: Mapping[str, Any]) -> Shape:
    needed = schema.get("required", ())
    fields = tuple(
        Field(field, _type(of), field in needed, _prose(of.get("description", "")))
        for field, of in schema.get("properties", {}).items()
    )
    if "enum" in schema:
        fields = (Field("", _type(schema), required=False, description=Markup()),)
    return Shape(name, _prose(schema.get("description", "")), fields)


def _type(schema: Mapping[str, Any]) -> Markup:
    """The type of a value, with its limits."""
    bounds = [words.format(schema[bound]) for bound, words in _BOUNDS.items() if bound in schema]
    said = _kind(schema)
    if "default" in schema and schema["default"] is not None:
        bounds.append(f"default {schema['default']}")
    return said + Markup("").join(Markup(", {}").format(bound) for bound in bounds)


def _kind(schema: Mapping[str, Any]) -> Markup:
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_SCHEMAS)
        return Markup('<a href="#{0}">{0}</a>').format(name)
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return Markup(" or ").join(_type(part) for part in schema[several])
    if "const" in schema:
        return Markup("<code>{}</code>").format(schema["const"])
    if "enum" in schema:
        return Markup(", ").join(Markup("<code>{}</code>").format(value) for value in schema["enum"])
    match schema.get("type"):
        case "array":
            return Markup("list of ") + (_type(schema.get("items", {})) or Markup("anything"))
        case "object":
            within = schema.get("additionalProperties")
            return Markup("object") + (
                Markup(" of ") + _type(within) if isinstance(within, Mapping) and within else Markup()
            )
        case None:
            return Markup()
        case str(kind):
            return escape(schema.get("format", kind))
        case other:
            return escape(str(other))


def _prose(text: str) -> Markup:
    """A description: each paragraph on one line, text in backticks as code."""
    pieces = re.split(r"`([^`]+)`", " ".join(text.split()))
    code = Markup("<code>{}</code>")
    return Markup("").join(
        code.format(piece) if place % 2 else escape(piece) for place, piece in enumerate(pieces)
    )
