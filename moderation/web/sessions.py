"""The cookie of a console session, and the path that a person may go to after signing in.

Only the server knows what the session holds: see `accounts`.
"""

from urllib.parse import urlsplit

from fastapi import Request
from starlette.responses import Response

from moderation.settings import Settings

COOKIE = "bonafide_session"


def cookie_of(request: Request) -> str | None:
    """The session's secret. None when the browser sends none."""
    return request.cookies.get(COOKIE) or None


def is_https(request: Request) -> bool:
    """Whether the page came by https: then its cookies travel by nothing else."""
    return request.url.scheme == "https"


def set_cookie(request: Request, response: Response, secret: str, settings: Settings) -> None:
    """Set it so that scripts and other sites' forms cannot use it."""
    response.set_cookie(
        COOKIE,
        secret,
        max_age=int(settings.session_seconds),
        httponly=True,
        samesite="lax",
        secure=is_https(request),
    )


def clear_cookie(response: Response) -> None:
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="lax")


def own_path(path: str | None) -> str:
    """This path if it is ours, else the queue, so that a link to us sends nobody to another site."""
    if not path or not path.startswith("/") or path.startswith(("//", "/\\")):
        return "/queue"
    parts = urlsplit(path)
    clean = not parts.scheme and not parts.netloc and path.isprintable() and "\\" not in path
    return path if clean else "/queue"
