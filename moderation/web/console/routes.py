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
    search,
    sign_in,
    statements,
    webhooks,
)
from moderation.web.console.pages import Static, security_headers
from moderation.web.console.resume import after_sign_in, ask_to_sign_in


def install(app: FastAPI) -> None:
    """Add the console to the app, whose services are open."""
    app.state.page_headers = security_headers(app.state.services)
    app.state.ask_to_sign_in, app.state.after_sign_in = ask_to_sign_in, after_sign_in
    for part in (
        sign_in,
        queue,
        search,
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
