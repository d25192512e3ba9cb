"""Errors as problem documents, RFC 9457: one sentence for a person, and the fields that are wrong."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, to_json

from recvae.arguments import shown
from recvae.errors import did_you_mean

MEDIA_TYPE = "application/problem+json"
MOST_ERRORS = 20  # fields named in one document


class FieldError(NamedTuple):
    """A field of a request, such as ``queries.3.k``, and a sentence about its value."""

    field: str
    detail: str


class Refusal(Exception):  # noqa: N818 - it is an answer
    """A request, or one query of a batch, that is answered with a problem in place of a list."""

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.errors, self.headers = status, detail, tuple(errors), dict(headers or {})

    def document(self, request_id: str) -> dict[str, object]:
        """Return the problem document as plain values."""
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "request_id": request_id,
            "errors": [error._asdict() for error in self.errors[:MOST_ERRORS]],
        }

    def body(self, request_id: str) -> bytes:
        """Return the problem document as JSON."""
        return to_json(self.document(request_id), inf_nan_mode="null")


def of_field(field: str, detail: str, status: int = 422) -> Refusal:
    """Return the refusal of one field's value."""
    return Refusal(status, detail, [FieldError(field, detail)])


def of_validation(error: ValidationError, kind: type[BaseModel], before: str = "") -> Refusal:
    """Return the refusal of a body that does not fit ``kind``; ``before`` is put before each field's name.

    A body that is no JSON is a 400, other mistakes are a 422 that names every wrong field.
    """
    found = error.errors(include_url=False)
    if found[0]["type"] == "json_invalid":
        reason = str(found[0].get("ctx", {}).get("error", "it cannot be read"))
        return Refusal(400, f"The body is not JSON: {reason}.")
    found.sort(key=lambda one: one["type"] != "extra_forbidden")  # a misspelt field is the reason why one is missing
    errors = [FieldError(before + ".".join(map(str, one["loc"])), _sentence(one, kind)) for one in found[:MOST_ERRORS]]
    more = f" There are {len(found) - 1} more such mistakes; see errors." if len(found) > 1 else ""
    return Refusal(422, errors[0].detail + more, errors)


def _sentence(error: ErrorDetails, kind: type[BaseModel]) -> str:
    """Return one of pydantic's errors as a sentence."""
    path = [part for part in error["loc"] if not isinstance(part, int)]
    name = str(path[-1]) if path else "body"
    where = _place(error)
    if error["type"] == "extra_forbidden":
        known = _fields(kind, path[:-1])
        return f"There is no field {shown(name)}.{did_you_mean(name, known)} Known: {', '.join(known)}."
    if error["type"] == "missing":
        return f"The field '{name}' is missing."
    if error["type"] in ("model_type", "model_attributes_type"):
        return "A query must be a JSON object." if path else "The body must be a JSON object."
    wanted = error["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    return f"{where} must be {_WANTED.get(error['type'], wanted)}, and is {shown(error['input'])}."


_WANTED = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number of ordinary size",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "finite_number": "a finite number",
}


def _place(error: ErrorDetails) -> str:
    """Return the value that an error is about, for the beginning of a sentence."""
    *above, last = error["loc"] or ("body",)
    if isinstance(last, int) and above:
        return f"Place {last + 1} of '{above[-1]}'"
    return f"'{last}'"


def _fields(kind: type[BaseModel], path: Sequence[object]) -> list[str]:
    """Return the names of the fields of ``kind``, or of the kind that its field at ``path`` is a list of."""
    for name in path:
        inner = kind.model_fields[str(name)].annotation if str(name) in kind.model_fields else None
        kind = next((part for part in getattr(inner, "__args__", ()) if issubclass(part, BaseModel)), kind)
    return list(kind.model_fields)
