"""The routes: from a request's bytes to the bytes of its answer.

FastAPI describes the routes in the OpenAPI document, and dispatches to them. The functions get the request itself and
read it on their own: FastAPI's reading of bodies and writing of answers takes as long as ranking does.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import ValidationError
from pydantic_core import from_json, to_json
from starlette.requests import Request
from starlette.responses import Response

from recvae.arguments import shown
from recvae.errors import did_you_mean
from recvae.serving import rendering, static
from recvae.serving.answers import Listing, Question, alike, asked
from recvae.serving.bodies import Kind, parsed, read
from recvae.serving.document import described, document
from recvae.serving.http import Service
from recvae.serving.problems import FieldError, Refusal, of_field, of_validation
from recvae.serving.schema import Batch, Recommend, Similar
from recvae.serving.served import Served
from recvae.serving.settings import Settings

MOST_FOUND = 1000  # items that a search lists
Handler = Callable[[Request], Awaitable[Response]]


class Direct(APIRoute):
    """A route whose function is called with the request, and returns the response."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the route's own function."""
        return self.endpoint


def application(service: Service) -> FastAPI:
    """Return the routes of a service, and its document."""
    app = FastAPI(title="recvae", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.router.route_class = Direct
    routes = Routes(service)
    for method, path, handler, name in routes.table():
        app.add_api_route(path, handler, methods=[method], **described(name, path))
    static.add(app)
    routes.document = document(app, service.settings)
    return app


class Routes:
    """The functions that answer, over the parts of one service."""

    document: bytes

    def __init__(self, service: Service) -> None:
        self._service, self._settings = service, service.settings

    def table(self) -> list[tuple[str, str, Handler, str]]:
        """Return method, path, function and name of every route of the document."""
        of_models = (
            ("POST", "/recommend", self.recommend, "recommend"),
            ("POST", "/recommend/batch", self.batch, "batch"),
            ("POST", "/similar", self.similar, "similar"),
            ("GET", "/items", self.items, "items"),
        )
        return [
            *((method, f"/v1{path}", function, name) for method, path, function, name in of_models),
            ("GET", "/v1/model", self.about, "model"),
            ("GET", "/v1/models", self.models, "models"),
            *((method, f"/v1/models/{{name}}{path}", function, name) for method, path, function, name in of_models),
            ("GET", "/v1/models/{name}", self.about, "model"),
            ("GET", "/v1/models/{name}/model", self.about, "model"),
            ("GET", "/health/live", self.live, "live"),
            ("GET", "/health/ready", self.ready, "ready"),
            ("GET", "/metrics", self.metrics, "metrics"),
            ("GET", "/openapi.json", self.openapi, "openapi"),
        ]

    def _served(self, request: Request) -> Served:
        """Return the model that a request asks; raise :class:`Refusal` where there is none of that name."""
        shelf, name = self._service.shelf, request.path_params.get("name")
        served = shelf.default if name is None else shelf.get(name)
        if served is None:
            names = [one.name for one in shelf]
            near = did_you_mean(str(name)[:100], names)
            raise Refusal(404, f"There is no model {shown(name)}.{near} Known: {', '.join(names)}.")
        request.scope["facts"] = {"model": served.name, "version": served.version}
        return served

    async def recommend(self, request: Request) -> Response:
        """Answer with the items that come next for a history."""
        return await self._answer(request, Recommend, asked, rendering.recommended)

    async def batch(self, request: Request) -> Response:
        """Answer several questions, each with an answer or a problem of its own."""
        served, settings = self._served(request), self._settings
        queries = self._queries(await read(request, settings))
        if len(queries) > settings.max_batch:
            raise of_field(
                "queries", f"There are {len(queries):,} queries; this service takes {settings.max_batch:,} at once."
            )
        results: list[Question | Refusal | Listing] = []
        for place, query in enumerate(queries):
            try:
                results.append(asked(served, query if isinstance(query, Recommend) else _one(query), settings))
            except Refusal as refusal:
                results.append(_placed(refusal, place))
        questions = [one for one in results if isinstance(one, Question)]
        listings = iter(await asyncio.gather(*self._service.ranker.submit(questions), return_exceptions=True))
        parts = []
        for place, one in enumerate(results):
            found = next(listings) if isinstance(one, Question) else one
            if isinstance(found, Refusal):
                problem = _placed(found, place) if isinstance(one, Question) else found
                parts.append(b'{"problem":%b}' % problem.body(request.scope["request_id"]))
            elif isinstance(found, BaseException):
                raise found
            else:
                assert isinstance(one, Question)
                assert isinstance(found, Listing)
                parts.append(rendering.answer(one, found))
        request.scope["facts"]["queries"] = len(queries)
        return _json(rendering.answers(parts, served))

    @staticmethod
    def _queries(body: bytes) -> list[object]:
        """Return the queries of a batch, checked where all of them can be used, else as plain values."""
        try:
            return list(Batch.model_validate_json(body).queries)
        except ValidationError as error:
            inside = [one["loc"][:1] == ("queries",) and len(one["loc"]) > 1 for one in error.errors()]
            if not all(inside):
                raise of_validation(error, Batch) from None
        queries: list[object] = from_json(body)["queries"]
        return queries

    async def similar(self, request: Request) -> Response:
        """Answer with the items most like one."""
        return await self._answer(request, Similar, alike, rendering.similar)

    async def _answer(
        self,
        request: Request,
        kind: type[Kind],
        ask: Callable[[Served, Kind, Settings], Question],
        render: Callable[[Question, Listing], bytes],
    ) -> Response:
        """Answer one question: ``ask`` makes it of a body, and ``render`` writes its answer."""
        served = self._served(request)
        question = ask(served, parsed(kind, await read(request, self._settings)), self._settings)
        [future] = self._service.ranker.submit([question])
        return _json(render(question, await future))

    async def items(self, request: Request) -> Response:
        """Find items by a text, or by their ids."""
        served, given = self._served(request), request.query_params
        for name in given:
            if name not in ("q", "limit", "id"):
                near = did_you_mean(name[:100], ("q", "limit", "id"))
                raise of_field(name[:100], f"There is no parameter {shown(name)}.{near} Known: q, limit, id.")
        ids = given.getlist("id")
        if ids and "q" in given:
            raise of_field("q", "Items are found by q or named by id, not both. Leave one out.")
        if len(ids) > MOST_FOUND:
            raise of_field("id", f"There are {len(ids):,} ids; this service finds {MOST_FOUND:,} at once.")
        limit = given.get("limit", "20")
        if not limit.isascii() or not limit.isdigit() or len(limit) > 9 or not 1 <= int(limit) <= MOST_FOUND:
            raise of_field("limit", f"'limit' must be a whole number from 1 to {MOST_FOUND:,}, and is {shown(limit)}.")
        if ids:
            columns = [served.columns[item] for item in dict.fromkeys(ids) if item in served.columns]
            unknown = [item for item in dict.fromkeys(ids) if item not in served.columns]
            return _json(rendering.found(served, columns, len(columns), unknown))
        # In a thread: a large catalogue takes a while, and others wait for the event loop.
        columns, total = await asyncio.to_thread(served.search.find, given.get("q", "")[:200], int(limit))
        return _json(rendering.found(served, columns, total, []))

    async def about(self, request: Request) -> Response:
        """Say what the model is and can do."""
        served, settings, model = self._served(request), self._settings, self._served(request).model
        limits = {
            "k": settings.max_k,
            "history": settings.max_history,
            "batch": settings.max_batch,
            "reasons": settings.max_reasons,
            "body": settings.max_body,
        }
        return _json(
            to_json(
                {
                    "name": served.name,
                    "title": served.title,
                    "version": served.version,
                    "items": model.n_items,
                    "titles": any(model.items.titles),
                    "tags": [{"tag": tag, "items": count} for tag, count in sorted(served.tags.items())],
                    "conditions": list(model.condition_names),
                    "ratings": served.of_ratings,
                    "similar": not served.no_similar,
                    "dataset": model.dataset.get("name"),
                    "metrics": model.metrics,
                    "limits": limits,
                    "loaded": served.loaded.isoformat(timespec="seconds"),
                },
                inf_nan_mode="null",
            )
        )

    async def models(self, request: Request) -> Response:
        """List the models, the default first."""
        del request
        shelf = self._service.shelf
        return _json(to_json([{"name": one.name, "title": one.title, "version": one.version} for one in shelf]))

    async def live(self, request: Request) -> Response:
        """Say that the process runs."""
        del request
        return _json(b'{"status":"alive"}')

    async def ready(self, request: Request) -> Response:
        """Say whether the service takes requests."""
        del request
        if not self._service.ready:
            raise Refusal(503, "The service is starting or ending.", headers={"Retry-After": "1"})
        return _json(b'{"status":"ready"}')

    async def metrics(self, request: Request) -> Response:
        """Return the figures for Prometheus."""
        del request
        metrics = self._service.metrics
        return Response(metrics.text(self._service.ranker.waiting), media_type=metrics.media_type)

    async def openapi(self, request: Request) -> Response:
        """Return the OpenAPI document."""
        del request
        return _json(self.document)


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _one(query: object) -> Recommend:
    """Return one query of a batch, a plain value, checked alone."""
    try:
        return Recommend.model_validate(query)
    except ValidationError as error:
        raise of_validation(error, Recommend) from None


def _placed(refusal: Refusal, place: int) -> Refusal:
    """Return the refusal of a batch's query with the query's place in its fields' names."""
    errors = [FieldError(f"queries.{place}.{error.field}".rstrip("."), error.detail) for error in refusal.errors]
    return Refusal(refusal.status, refusal.detail, errors)
