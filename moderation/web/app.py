"""The app: routes, errors and what surrounds every request."""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import cache
from importlib.metadata import version
from typing import Any
from uuid import uuid4

import structlog
from anyio import to_thread
from fastapi import FastAPI
from prometheus_client import Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moderation import traces
from moderation.logs import configure_logs
from moderation.settings import Settings
from moderation.settings import settings as process_settings
from moderation.web import (
    cases,
    notifications,
    oidc,
    probes,
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

#: Bytes of a request's body. A thousand flags with the largest contexts are smaller.
BODY_AT_MOST = 16 * 2**20

_SECONDS = Histogram("bonafide_http_seconds", "Seconds per request", labelnames=["method", "route", "status"])

log = structlog.get_logger()


def create_app(settings: Settings | None = None) -> FastAPI:
    """The app with its own connections. `uvicorn --factory moderation.web.app:create_app` runs it."""
    if settings is None:
        settings = process_settings()
        # This is our own process: without this line a fault would be logged with all local variables.
        configure_logs(settings)
    traces.start(settings, "bonafide-console")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        to_thread.current_default_thread_limiter().total_tokens = WEB_THREADS
        with keep_rules(app.state.services):
            yield
        app.state.services.database.close()

    app = _api(lifespan=lifespan)
    app.state.services = open_services(settings)
    app.include_router(oidc.router)
    app.include_router(reference.router)
    console.install(app)
    # FastAPI itself would make it for every app.
    app.openapi = document
    app.add_middleware(Surroundings)
    app.add_middleware(Traced)
    return app


def _api(**options: Any) -> FastAPI:
    """The routes for platforms, without their services."""
    app = FastAPI(
        title="Bona Fide",
        summary="Flag images, get verdicts and decisions back.",
        version=version("bonafide-moderation"),
        # FastAPI's pages load scripts from a CDN: `reference` makes our own page.
        docs_url=None,
        redoc_url=None,
        **options,
    )
    for part in (cases, notifications, probes, reviews, statements, webhooks):
        app.include_router(part.router)
    app.webhooks.include_router(webhooks.told)
    problems.install(app, page=page_of_problem)
    return app


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document, with what FastAPI cannot see.

    A batch's items are read one by one: each is a `CaseIn`, as for a single case. Every call with a body may refuse its
    size and its type. Every answer that is no success is a problem, in the media type of problems (RFC 9457). No
    setting changes the document: it is made once in a process.
    """
    document = _api().openapi()
    document["components"]["schemas"].setdefault("CaseIn", CaseIn.model_json_schema())
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for calls in document["paths"].values():
        for call in calls.values():
            if "requestBody" in call:
                call["responses"] |= {
                    str(status): {"description": meaning} for status, meaning in problems.OF_BODIES.items()
                }
            for status, answer in call["responses"].items():
                if int(status) >= 400:
                    answer["content"] = problem
    return document


class Surroundings:
    """Gives every request an id, a size limit, a log line and a measured time."""

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
    """The same for a body without a length: reading stops at the limit."""
    seen = 0

    async def receive_some() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > BODY_AT_MOST:
            raise problems.RequestTooLarge(f"the body is over {BODY_AT_MOST:,} bytes")
        return message

    return receive_some
