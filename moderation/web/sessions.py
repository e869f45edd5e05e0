"""The cookie that names a session of the console, and where somebody may be sent who has signed in.

What the session holds is known to the server alone: see `accounts`.
"""

from urllib.parse import urlsplit

from fastapi import Request
from starlette.responses import Response

from moderation.settings import Settings

COOKIE = "bonafide_session"


def cookie_of(request: Request) -> str | None:
    """The session's secret. None when the browser has none of ours."""
    return request.cookies.get(COOKIE) or None


def set_cookie(response: Response, secret: str, *, secure: bool, settings: Settings) -> None:
    """Out of reach for scripts and for forms of other sites; `secure` wherever the page came by https."""
    response.set_cookie(
        COOKIE,
        secret,
        max_age=int(settings.session_seconds),
        path="/",
        httponly=True,
        samesite="lax",
        secure=secure,
    )


def clear_cookie(response: Response) -> None:
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="lax")


def own_path(path: str | None) -> str:
    """This path when it is one of ours, else the queue: nobody is sent to another site by a link to us."""
    if not path or not path.startswith("/") or path.startswith(("//", "/\\")):
        return "/queue"
    parts = urlsplit(path)
    clean = not parts.scheme and not parts.netloc and path.isprintable() and "\\" not in path
    return path if clean else "/queue"
