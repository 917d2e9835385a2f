"""`/openapi.json`: OpenAPI 3.1, made of the operations and of the models of their bodies."""

import re
from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter

from daemon.api.bodies import Error
from daemon.api.operations import Authorization, Operation, Parameter

REF = "#/components/schemas/{model}"

_ERRORS = {
    400: "Something in the request can never work; `fields` says what it should be.",
    401: "The Authorization header is missing, cannot be read or is not valid.",
    403: "The instance is disabled, or the provider does not allow it.",
    404: "There is no such thing, or it is not the caller's.",
    408: "The body did not arrive in time.",
    409: "It cannot be done as things are now; the message says why.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    429: "Too many requests of this kind are under way; see Retry-After.",
    500: "Something went wrong here.",
    502: "The provider cannot answer now, or refuses.",
    503: "The database is away, or the provider asks for a pause; see Retry-After.",
}
_PATHS = {
    "id": {"description": "The id of an instance.", "schema": {"type": "integer", "minimum": 0}},
    "key": {"description": "The key or the id of an element.", "schema": {"type": "string"}},
    "configurationId": {
        "description": "The id of a configuration entry, or its key.",
        "schema": {"type": "string"},
    },
    "eventId": {"description": "The id of a stored event.", "schema": {"type": "string"}},
    "hub": {
        "description": "Any word: the element token says whose records are read.",
        "schema": {"type": "string"},
    },
    "resource": {
        "description": "A resource of the account, such as contacts.",
        "schema": {"type": "string"},
    },
    "objectId": {
        "description": "The id of a record, or the further parts of a resource's name.",
        "schema": {"type": "string"},
    },
}
_SECURITY = {
    Authorization.NONE: ((),),
    Authorization.ORGANIZATION: (("UserAndOrganization",),),
    Authorization.EITHER: (("UserAndOrganization",), ("UserAndElement",)),
    Authorization.ELEMENT: (("UserAndElement",),),
}
_PAGE_HEADERS = {
    "Elements-Returned-Count": ("How many entries this page has.", "integer"),
    "Elements-Total-Count": ("How many there are on all pages, where that is known.", "integer"),
    "Elements-Next-Position": ("Of events after a position: send it back as after.", "integer"),
    "Elements-Next-Page-Token": ("Send it back as nextPage; absent on the last page.", "string"),
}


def document(operations: Iterable[Operation], *, version: str, url: str) -> dict[str, Any]:
    """The description of *operations*, reached at *url*."""
    schemas = _Schemas()
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        described = _operation(operation, schemas)
        paths.setdefault(operation.address, {})[operation.method.lower()] = described
    schemas.of(Error)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tidings",
            "version": version,
            "description": "Instances of elements: accounts at providers that are watched for changes. "
            "Every answer has the header Elements-Request-Id.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": url}],
        "paths": paths,
        "components": {
            "schemas": schemas.found,
            "securitySchemes": {
                "UserAndOrganization": _scheme(
                    "User <user secret>, Organization <organization secret>"
                ),
                "UserAndElement": _scheme("User <user secret>, Element <element token>"),
            },
        },
    }


class _Schemas:
    """The schemas of models, each under its name once."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def of(self, kind: Any) -> dict[str, Any]:
        schema = TypeAdapter(kind).json_schema(ref_template=REF, by_alias=True)
        self.found |= schema.pop("$defs", {})
        if "title" in schema and schema.get("type") == "object" and "properties" in schema:
            self.found[schema["title"]] = schema
            return {"$ref": REF.format(model=schema["title"])}
        return schema


def _operation(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    names = re.findall(r"\{(\w+)\}", operation.address)
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.tag],
        "security": [
            {scheme: [] for scheme in schemes} for schemes in _SECURITY[operation.authorization]
        ],
        "parameters": [
            *({"name": name, "in": "path", "required": True, **_PATHS[name]} for name in names),
            *map(_parameter, operation.query),
        ],
        "responses": {"200": _success(operation, schemas)},
    }
    if operation.form is not None:
        described["requestBody"] = {
            "required": operation.form_required,
            "content": {"application/json": {"schema": schemas.of(operation.form)}},
        }
    for status in sorted(_statuses(operation, names)):
        error = {"schema": {"$ref": REF.format(model="Error")}}
        described["responses"][str(status)] = {
            "description": _ERRORS[status],
            "content": {"application/json": error},
        }
    return described


def _success(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    success: dict[str, Any] = {"description": operation.summary}
    if operation.block is None:
        success["description"] = "Done; the body is empty."
    else:
        success["content"] = {"application/json": {"schema": schemas.of(operation.block)}}
    if operation.paged:
        success["headers"] = {
            name: {"description": text, "schema": {"type": kind}}
            for name, (text, kind) in _PAGE_HEADERS.items()
        }
    return success


def _statuses(operation: Operation, names: list[str]) -> set[int]:
    statuses = {500, *operation.statuses}
    if names:
        statuses.add(404)
    if operation.authorization is not Authorization.NONE:
        statuses |= {401, 503}
    if operation.form is not None:
        statuses |= {400, 408, 413, 415}
    if operation.query:
        statuses.add(400)
    return statuses


def _parameter(parameter: Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": parameter.type}
    return {
        "name": parameter.name,
        "in": "query",
        "description": parameter.description,
        "schema": {"type": "array", "items": schema} if parameter.many else schema,
    }


def _scheme(form: str) -> dict[str, str]:
    return {"type": "apiKey", "in": "header", "name": "Authorization", "description": form}
