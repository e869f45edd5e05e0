"""Who calls, and whether we know the call: platforms' API keys as bearer tokens, the parameters, the body's type."""

import threading
import time
from typing import Annotated

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from moderation.accounts.keys import Key, find_key, touch_key
from moderation.web.problems import NotJson, ScopeMissing, Unauthenticated
from moderation.web.services import Services, ServicesDep

_bearer = HTTPBearer(auto_error=False, description="An API key from `bonafide keys add NAME`.")

#: Seconds for which a key is trusted without asking Postgres. A revoked key may work for so long.
BELIEVED_FOR = 10.0


class KeyRing:
    """Recently used keys, so that a busy platform costs one query in ten seconds and not one per call."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, Key]] = {}
        self._lock = threading.Lock()

    def find(self, secret: str, services: Services) -> Key | None:
        now = time.monotonic()
        with self._lock:
            kept = self._seen.get(secret)
        if kept is not None and now - kept[0] < BELIEVED_FOR:
            return kept[1]
        with services.database.transaction() as session:
            key = find_key(session, secret)
            if key is not None:
                touch_key(session, key.id)
        with self._lock:
            # Only valid keys are kept: guesses must not fill the memory.
            if key is not None:
                self._seen[secret] = (now, key)
            else:
                self._seen.pop(secret, None)
        return key


_ring = KeyRing()


def _caller(
    services: ServicesDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Key:
    if credentials is None:
        raise Unauthenticated("send an API key: Authorization: Bearer bf_…")
    key = _ring.find(credentials.credentials, services)
    if key is None:
        raise Unauthenticated("this API key is unknown or was revoked")
    return key


def _scoped(scope: str) -> object:
    def check(key: Annotated[Key, Depends(_caller)]) -> Key:
        if scope not in key.scopes:
            raise ScopeMissing(f"this API key lacks the scope {scope!r}")
        return key

    return Depends(check)


Submitter = Annotated[Key, _scoped("submit")]
Reader = Annotated[Key, _scoped("read")]
Reviewer = Annotated[Key, _scoped("review")]
Eraser = Annotated[Key, _scoped("erase")]
WebhookManager = Annotated[Key, _scoped("webhooks")]


def _only_known_parameters(request: Request, key: Annotated[Key, Depends(_caller)]) -> None:
    """Refuse unknown parameters, like unknown fields of a body: a misspelled `sorce=x` would find all.

    A repeated parameter is refused too, because only one would count. A caller without a key is told that first.
    """
    route = request.scope["route"]
    assert isinstance(route, APIRoute)
    call = request.app.openapi()["paths"][route.path_format][request.method.lower()]
    known = [parameter["name"] for parameter in call.get("parameters", ()) if parameter["in"] == "query"]
    given = [name for name, _ in request.query_params.multi_items()]
    errors = [
        {"type": "extra_forbidden", "loc": ("query", name), "msg": "", "input": None}
        for name in dict.fromkeys(given)
        if name not in known
    ] + [
        {"type": "given_twice", "loc": ("query", name), "msg": "is given more than once", "input": None}
        for name in known
        if given.count(name) > 1
    ]
    if errors:
        raise RequestValidationError(errors)


OnlyKnownParameters = Depends(_only_known_parameters)


async def _only_json(request: Request, key: Annotated[Key, Depends(_caller)]) -> None:
    """Refuse a body that does not say that it is JSON: FastAPI would call it no object. An empty one is missing."""
    route = request.scope["route"]
    assert isinstance(route, APIRoute)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
    if route.body_field is None or is_json or not await request.body():
        return
    hint = ""
    if kind.startswith(("multipart/", "image/")):
        hint = ". A picture goes to the URL that POST /v1/uploads gives; then its case names it"
    raise NotJson(f"send JSON with the header Content-Type: application/json{hint}")


OnlyJson = Depends(_only_json)
