"""The console as part of the app: its pages, and its own files."""

from fastapi import FastAPI

from moderation.web.console import (
    alike,
    bundles,
    cases,
    certificates,
    decisions,
    insight,
    people,
    preferences,
    queue,
    sign_in,
    statements,
    webhooks,
)
from moderation.web.console.pages import Static, security_headers


def install(app: FastAPI) -> None:
    """Add the console to the app, whose services are open."""
    app.state.page_headers = security_headers(app.state.services)
    for part in (
        sign_in,
        queue,
        cases,
        alike,
        decisions,
        statements,
        insight,
        bundles,
        certificates,
        people,
        webhooks,
        preferences,
    ):
        app.include_router(part.router)
    app.mount("/static", Static(packages=[("moderation.web.console", "static")]), name="static")
