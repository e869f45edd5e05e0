"""Continues where a session ended: what a person had filled in survives the sign-in.

A form that comes without a session is kept in the sign-in page itself, not on the server: nobody stores anything here
before they sign in. After the sign-in a case's form becomes a draft of that case. Any other form is shown again, and
the person who sent it before can send it.
"""

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit
from uuid import UUID

from fastapi import Request
from fastapi.responses import Response
from starlette.datastructures import FormData

from moderation.accounts.accounts import Session, SignedIn
from moderation.database.cases import find_case
from moderation.database.drafts import Form, save_draft
from moderation.errors import BonafideError
from moderation.web.console.access import FIELDS_AT_MOST, is_ours, typed
from moderation.web.console.pages import Visitor, case_path, go, page
from moderation.web.console.sign_in import HeldForm, sign_in_page
from moderation.web.services import Services, services_of
from moderation.web.sessions import own_path

#: The event for htmx, which `console.js` listens to.
SIGNED_OUT = "bonafide:signed-out"

#: Bytes of a form that is kept. Nobody fills in a longer one by hand.
_HELD_AT_MOST = 200_000
#: Fields that our pages put into a form. People do not fill them in.
_OURS = frozenset({"csrf", "by", "token", "version", "from", "count", "unseen", "said", "form"})
#: Forms that are not kept: passwords, and forms without content.
_NOT_HELD = ("/sign-out", "/preferences/password", "/preferences/picture", "/password/first")
_OF_A_CASE = re.compile(r"/cases/(?P<case>[0-9a-f-]{36})/(?P<form>[a-z]+)")
#: Forms of a case whose writer had claimed it.
_CLAIMED = (Form.DECIDE, Form.JUDGE, Form.SKIP)


@dataclass(frozen=True)
class OfCase:
    case_id: UUID
    form: Form


async def ask_to_sign_in(request: Request) -> Response:
    """The answer to a request without a valid session."""
    if "hx-request" in request.headers:
        # The page keeps what is filled in: htmx swaps nothing, and a script tells the person.
        return Response(status_code=204, headers={"HX-Trigger": SIGNED_OUT})
    if "x-requested-with" in request.headers:
        return Response("You are signed out.", status_code=401, media_type="text/plain")
    if request.method != "POST":
        wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return go("/sign-in" if wanted == "/queue" else f"/sign-in?{urlencode({'next': wanted}, safe='/')}")
    came_from = _came_from(request)
    if request.url.path in _NOT_HELD or not is_ours(request):
        return go("/sign-in")
    form = await request.form(max_files=0, max_fields=FIELDS_AT_MOST)
    return sign_in_page(
        request, services_of(request), next_=came_from, held=_hold(request.url.path, form), status=401
    )


def _came_from(request: Request) -> str:
    parts = urlsplit(request.headers.get("referer", ""))
    return own_path(parts.path + (f"?{parts.query}" if parts.query else ""))


def _hold(path: str, form: FormData) -> HeldForm | None:
    fields = [
        (name, value) for name, value in form.multi_items() if isinstance(value, str) and name != "csrf"
    ]
    said = urlencode(fields)
    if len(said) > _HELD_AT_MOST or not any(value for name, value in fields if name not in _OURS):
        return None
    return HeldForm(path, typed(form, "by"), said)


def after_sign_in(services: Services, signed_in: SignedIn, held: HeldForm | None, next_: str) -> Response:
    """The next page after a sign-in. It never shows what another person had filled in."""
    if held is None or held.by != str(signed_in.person.id) or own_path(held.path) != held.path:
        return go(next_)
    fields = parse_qsl(held.fields, keep_blank_values=True, max_num_fields=FIELDS_AT_MOST)
    of_case = _of_case(held.path)
    if of_case is not None:
        return _to_the_case(services, signed_in, of_case, dict(fields))
    visitor = Visitor(Session(signed_in.person, signed_in.csrf))
    return page(
        services,
        visitor,
        "resend.html",
        path=held.path,
        back=next_,
        fields=[(name, value) for name, value in fields if name != "by"],
        shown=_shown(fields),
    )


def _of_case(path: str) -> OfCase | None:
    found = _OF_A_CASE.fullmatch(path)
    if found is None or found["form"] not in set(Form):
        return None
    with contextlib.suppress(ValueError):
        return OfCase(UUID(found["case"]), Form(found["form"]))
    return None


def _to_the_case(services: Services, signed_in: SignedIn, held: OfCase, fields: dict[str, str]) -> Response:
    person = signed_in.person
    with services.database.transaction() as session:
        if find_case(session, held.case_id) is None:
            return go("/queue")
        save_draft(session, held.case_id, person.id, held.form, filled_in(fields))
    if held.form in _CLAIMED:
        # They had claimed it. If somebody else has taken it, its page says so, beside their words.
        with contextlib.suppress(BonafideError):
            services.review.claim(person, held.case_id)
    return go(case_path(held.case_id, fields.get("from")))


def filled_in(fields: Mapping[str, object]) -> dict[str, str]:
    """The fields that a person filled in."""
    return {
        name: value
        for name, value in fields.items()
        if isinstance(value, str) and name not in _OURS and "\x00" not in value
    }


def _shown(fields: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The fields that a person may want to read again before they send."""
    return [(name, value) for name, value in fields if name not in _OURS and value and name != "case"]
