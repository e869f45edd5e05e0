"""Signing in and out."""

import secrets
from dataclasses import dataclass
from functools import partial
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Cookie, Depends, Query, Request
from fastapi.responses import Response
from starlette.datastructures import FormData

from moderation.errors import SignInRefused, SignInThrottled
from moderation.web.console.access import FormDep, VisitorDep, field, require_token, typed
from moderation.web.console.pages import PageRoute, go, render
from moderation.web.console.words import sentence
from moderation.web.oidc import ProviderUnavailable
from moderation.web.services import Services, ServicesDep
from moderation.web.sessions import clear_cookie, cookie_of, is_https, own_path, set_cookie

router = APIRouter(route_class=PageRoute, include_in_schema=False)

#: Before the sign-in no session can hold a form's token, so a cookie with the same value does.
FORM_COOKIE = "bonafide_form"
#: Sentences for people who return from the identity provider with one of these codes.
REFUSED_WORDS = {
    SignInRefused.code: (
        "Your organisation did not confirm who you are, or nobody with the email that it knows was added here. "
        "Ask an admin."
    ),
    ProviderUnavailable.code: "Your organisation's sign-in does not answer. Try again in a moment.",
}


@dataclass(frozen=True)
class HeldForm:
    """A form that came after its session had ended: its path, its writer and its fields."""

    path: str
    #: Id of the person.
    by: str
    #: Encoded as a query.
    fields: str


@router.get("/sign-in")
def show_sign_in(
    request: Request,
    services: ServicesDep,
    next_: Annotated[str, Query(alias="next")] = "/queue",
    refused: Annotated[str, Query(max_length=100)] = "",
) -> Response:
    secret = cookie_of(request)
    if secret is not None and services.accounts.session(secret) is not None:
        return go(own_path(next_))
    return sign_in_page(request, services, next_=next_, code=refused, refused=REFUSED_WORDS.get(refused, ""))


async def _read(request: Request) -> FormData:
    return await request.form(max_files=0, max_fields=10)


def _held(form: FormData) -> HeldForm | None:
    path = typed(form, "held_path")
    return HeldForm(path, typed(form, "held_by"), typed(form, "held")) if path else None


@router.post("/sign-in")
def sign_in(
    request: Request,
    services: ServicesDep,
    form: Annotated[FormData, Depends(_read)],
    token: Annotated[str, Cookie(alias=FORM_COOKIE)] = "",
) -> Response:
    require_token(request, form, token or secrets.token_urlsafe())
    email = field(form, "email", at_most=320) or ""
    next_, held = own_path(field(form, "next")), _held(form)
    again = partial(sign_in_page, request, services, next_=next_, email=email, held=held)
    try:
        signed_in = services.accounts.sign_in(email, typed(form, "password"), address=address_of(request))
    except SignInRefused as error:
        return again(code=error.code, refused="The email or the password is wrong.", status=401)
    except SignInThrottled as error:
        response = again(code=error.code, refused=sentence(str(error)), status=429)
        response.headers["Retry-After"] = str(int(error.retry_after) + 1)
        return response
    response = request.app.state.after_sign_in(services, signed_in, held, next_)
    set_cookie(request, response, signed_in.secret, services.settings)
    return response


@router.post("/sign-out")
def sign_out(request: Request, services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    secret = cookie_of(request)
    if secret is not None:
        services.accounts.sign_out(secret)
    response = go("/sign-in")
    clear_cookie(response)
    return response


def sign_in_page(
    request: Request,
    services: Services,
    *,
    next_: str,
    email: str = "",
    held: HeldForm | None = None,
    code: str = "",
    refused: str = "",
    status: int = 200,
) -> Response:
    """The sign-in page. A second one in another tab has the same token, so that both work."""
    token, next_ = request.cookies.get(FORM_COOKIE) or secrets.token_urlsafe(24), own_path(next_)
    begin = f"/oidc/start?{urlencode({'next': next_})}"
    response = render(
        "sign_in.html",
        visitor=None,
        status=status,
        token=token,
        next=next_,
        email=email,
        code=code,
        refused=refused,
        held=held,
        oidc=None if services.settings.oidc_issuer is None else begin,
    )
    response.set_cookie(
        FORM_COOKIE,
        token,
        path="/sign-in",
        httponly=True,
        samesite="strict",
        secure=is_https(request),
        max_age=3600,
    )
    return response


def address_of(request: Request) -> str:
    """The client's address. Behind a balancer uvicorn must know which addresses to trust."""
    return request.client.host if request.client else "unknown"
