"""The app: routes, errors and what surrounds every request."""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version
from uuid import uuid4

import structlog
from anyio import to_thread
from fastapi import FastAPI
from prometheus_client import Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moderation import traces
from moderation.logs import configure_logs
from moderation.settings import Settings, settings
from moderation.web import (
    cases,
    notifications,
    oidc,
    operations,
    problems,
    reference,
    reviews,
    statements,
    webhooks,
)
from moderation.web.console import routes as console
from moderation.web.console.astray import page_of_problem
from moderation.web.rules import keep_rules
from moderation.web.services import WEB_THREADS, open_services
from moderation.web.tracing import Traced
from moderation.wire import CaseIn

#: Bytes of a request's body: a thousand flags with the largest context each are below.
BODY_AT_MOST = 16 * 2**20

_SECONDS = Histogram("bonafide_http_seconds", "Seconds per request", labelnames=["method", "route", "status"])

log = structlog.get_logger()


def create_app(given: Settings | None = None) -> FastAPI:
    """The app with its own connections. `uvicorn --factory moderation.web.app:create_app` runs it."""
    chosen = given or settings()
    if given is None:
        # A process of our own: without this a fault would be logged with what every frame holds.
        configure_logs(chosen)
    traces.start(chosen, "bonafide-console")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        to_thread.current_default_thread_limiter().total_tokens = WEB_THREADS
        with keep_rules(app.state.services):
            yield
        app.state.services.database.close()

    app = FastAPI(
        title="Bona Fide",
        summary="Flag images, get verdicts and decisions back.",
        version=version("bonafide-moderation"),
        lifespan=lifespan,
        # FastAPI's pages load scripts from a CDN: `reference` makes one of ours.
        docs_url=None,
        redoc_url=None,
    )
    app.state.services = open_services(chosen)
    app.include_router(cases.router)
    app.include_router(notifications.router)
    app.include_router(operations.router)
    app.include_router(reference.router)
    app.include_router(reviews.router)
    app.include_router(oidc.router)
    app.include_router(statements.router)
    app.include_router(webhooks.router)
    app.webhooks.include_router(webhooks.told)
    console.install(app)
    problems.install(app, page=page_of_problem)
    _complete_document(app)
    app.add_middleware(Surroundings)
    app.add_middleware(Traced)
    return app


def _complete_document(app: FastAPI) -> None:
    """What FastAPI does not see by itself.

    A batch's items are read one by one: each is a `CaseIn`, as for a single case. And whatever is not a success is a
    problem, in the media type of problems (RFC 9457).
    """
    document = app.openapi()
    document["components"]["schemas"].setdefault("CaseIn", CaseIn.model_json_schema())
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for calls in document["paths"].values():
        for call in calls.values():
            for status, answer in call["responses"].items():
                if int(status) >= 400:
                    answer["content"] = problem


class Surroundings:
    """A request id, a size limit, a log line and a measured time for every request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.bind_contextvars(request_id=request_id)
        started, status = time.monotonic(), 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            if _declared_size(scope) > BODY_AT_MOST:
                error = problems.RequestTooLarge(f"the body is over {BODY_AT_MOST:,} bytes")
                await problems.answer(problems.problem_of(error, request_id))(scope, receive, send_with_id)
            else:
                await self._app(scope, _limited(receive), send_with_id)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            _SECONDS.labels(scope["method"], route, status).observe(time.monotonic() - started)
            structlog.contextvars.unbind_contextvars("request_id")


def _declared_size(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


def _limited(receive: Receive) -> Receive:
    """The same for a body that does not say how long it is: reading stops at the limit."""
    seen = 0

    async def receive_some() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > BODY_AT_MOST:
            raise problems.RequestTooLarge(f"the body is over {BODY_AT_MOST:,} bytes")
        return message

    return receive_some
