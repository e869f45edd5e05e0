"""Signing in through an OpenID Connect provider: authorization code with PKCE, state and nonce, by Authlib.

The provider says who somebody is. An admin decides that they may work here: they were added with the email that the
provider has verified. Optional: the extra `oidc` and three settings.

Authlib's client for Starlette is not used. It keeps the provider's description for the life of the process, and its
keys until an unknown one comes. It accepts every signing algorithm that the provider lists. It does not check that the
description names our issuer, nor that userinfo names the same person. It also needs Starlette's session, whose signing
secret all processes share; one cookie is enough here.
"""

import base64
import binascii
import json
import secrets
import time
from dataclasses import asdict, dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

import httpx
import structlog
from fastapi import APIRouter, Query, Request
from fastapi.responses import RedirectResponse, Response

from moderation.accounts.person_rows import find_person_by_email
from moderation.errors import SetupProblem, SignInRefused, Unavailable
from moderation.people import Person
from moderation.settings import Settings
from moderation.web.services import Services, ServicesDep
from moderation.web.sessions import is_https, own_path, set_cookie

router = APIRouter(prefix="/oidc", include_in_schema=False)

#: What the provider's answer must match, in the browser that began. Nothing in it is secret to its owner.
COOKIE = "bonafide_oidc"
#: Seconds within which a person must come back from the provider.
PATIENCE = 600
#: Seconds that we wait for each answer of the provider.
TIMEOUT = 10.0
#: Seconds for which a provider's description is used again.
DESCRIBED_SECONDS = 300.0

#: By issuer: when its description was read, by the monotonic clock, and the description.
_described: dict[str, tuple[float, dict[str, Any]]] = {}

log = structlog.get_logger()


class ProviderUnavailable(Unavailable):
    code = "oidc_unavailable"


@dataclass(frozen=True)
class Started:
    """What we sent, to compare with what comes back."""

    state: str
    nonce: str
    verifier: str
    #: Where the person wanted to go.
    next: str

    def cookie(self) -> str:
        return base64.urlsafe_b64encode(json.dumps(asdict(self)).encode()).decode()

    @staticmethod
    def read(cookie: str | None) -> "Started":
        """Raise SignInRefused when the browser did not begin here, or too long ago."""
        try:
            kept = json.loads(base64.urlsafe_b64decode(cookie or ""))
            return Started(*(str(kept[name]) for name in ("state", "nonce", "verifier", "next")))
        except (ValueError, TypeError, KeyError, binascii.Error) as error:
            raise SignInRefused("this sign-in was not begun here, or too long ago") from error


@router.get("/start")
def start(
    request: Request, services: ServicesDep, next_: Annotated[str, Query(alias="next", max_length=2000)] = ""
) -> Response:
    """Send the browser to the provider."""
    started = Started(*(secrets.token_urlsafe(32) for _ in range(3)), next=next_)
    try:
        provider = _Provider(services.settings, str(request.url_for("finish_oidc")))
        response = RedirectResponse(provider.address(started), status_code=303)
    except (ProviderUnavailable, SignInRefused) as error:
        return _back(error)
    response.set_cookie(
        COOKIE,
        started.cookie(),
        max_age=PATIENCE,
        path="/oidc",
        httponly=True,
        samesite="lax",
        secure=is_https(request),
    )
    return response


@router.get("/callback", name="finish_oidc")
def finish(
    request: Request,
    services: ServicesDep,
    code: Annotated[str, Query(max_length=4096)] = "",
    state: Annotated[str, Query(max_length=200)] = "",
) -> Response:
    """The provider's answer: begin a session of the person whose email it has verified."""
    try:
        started = Started.read(request.cookies.get(COOKIE))
        signed_in = services.accounts.sign_in_as(_identify(request, services, started, code, state))
    except (ProviderUnavailable, SignInRefused) as error:
        return _back(error)
    # Checked now and not at the start: the browser may have changed the cookie.
    response = RedirectResponse(own_path(started.next), status_code=303)
    response.delete_cookie(COOKIE, path="/oidc")
    set_cookie(request, response, signed_in.secret, services.settings)
    return response


def _identify(request: Request, services: Services, started: Started, code: str, state: str) -> Person:
    """Who came back. Raise SignInRefused or ProviderUnavailable."""
    if not code or not secrets.compare_digest(state.encode(), started.state.encode()):
        raise SignInRefused("the provider did not confirm this sign-in")
    provider = _Provider(services.settings, str(request.url_for("finish_oidc")))
    email = provider.verified_email(code, started)
    with services.database.transaction() as session:
        person = find_person_by_email(session, email)
    if person is None:
        raise SignInRefused("nobody with this email was added here")
    return person


def _back(error: ProviderUnavailable | SignInRefused) -> Response:
    """Go to the sign-in page, which says in words what the code means."""
    log.warning("oidc_failed", action="sign_in", code=error.code, error=str(error))
    response = RedirectResponse(f"/sign-in?{urlencode({'refused': error.code})}", status_code=303)
    response.delete_cookie(COOKIE, path="/oidc")
    return response


class _Provider:
    """The provider by its own description. Its keys are fetched at every sign-in, because they change."""

    def __init__(self, settings: Settings, redirect_uri: str) -> None:
        try:
            from authlib.integrations.httpx_client import OAuth2Client
        except ImportError as error:
            raise SetupProblem(
                "OpenID Connect needs Authlib: pip install 'bonafide-moderation[oidc]'"
            ) from error
        if settings.oidc_issuer is None or settings.oidc_client_id is None:
            raise SignInRefused("no OpenID Connect provider is set up here")
        secret = settings.oidc_client_secret
        self._issuer = settings.oidc_issuer
        self._client_id = settings.oidc_client_id
        self._client: Any = OAuth2Client(
            self._client_id,
            None if secret is None else secret.get_secret_value(),
            scope="openid email",
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
            timeout=TIMEOUT,
        )
        self._metadata = self._describe()

    def _describe(self) -> dict[str, Any]:
        """Its description, kept for minutes: anybody may begin a sign-in, and each must not cost a request."""
        kept = _described.get(self._issuer)
        if kept is not None and time.monotonic() < kept[0] + DESCRIBED_SECONDS:
            return kept[1]
        metadata = self._get(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
        if metadata.get("issuer") != self._issuer:
            raise ProviderUnavailable("the provider's description names another issuer than the settings")
        _described[self._issuer] = time.monotonic(), metadata
        return metadata

    def address(self, started: Started) -> str:
        """The address that the browser goes to."""
        address, _ = self._client.create_authorization_url(
            self._metadata["authorization_endpoint"],
            state=started.state,
            nonce=started.nonce,
            code_verifier=started.verifier,
        )
        return str(address)

    def verified_email(self, code: str, started: Started) -> str:
        """Trade the code for an ID token and check it. Raise SignInRefused or ProviderUnavailable."""
        from authlib.common.errors import AuthlibBaseError
        from joserfc.errors import JoseError

        try:
            token = self._client.fetch_token(
                self._metadata["token_endpoint"],
                grant_type="authorization_code",
                code=code,
                code_verifier=started.verifier,
            )
            claims = self._claims(token, started.nonce)
            if "email" not in claims and "userinfo_endpoint" in self._metadata:
                claims = {**self._userinfo(token, claims["sub"])}
        except (AuthlibBaseError, JoseError, KeyError, ValueError) as error:
            raise SignInRefused(f"the provider's answer is not valid: {type(error).__name__}") from error
        except httpx.HTTPError as error:
            raise ProviderUnavailable(f"the provider does not answer: {type(error).__name__}") from error
        email = claims.get("email")
        if not isinstance(email, str) or claims.get("email_verified") not in (True, "true"):
            raise SignInRefused("the provider has not verified an email of this person")
        return email

    def _claims(self, token: dict[str, Any], nonce: str) -> dict[str, Any]:
        from authlib.oidc.core import CodeIDToken
        from joserfc import jwt
        from joserfc.jwk import KeySet

        keys = KeySet.import_key_set(self._get(self._metadata["jwks_uri"]))  # pyright: ignore[reportArgumentType]
        # Signed with the provider's key pair: a token "signed" with our client secret, or with nothing, is refused.
        decoded = jwt.decode(token["id_token"], keys, algorithms=["RS256", "ES256", "PS256", "EdDSA"])
        claims = CodeIDToken(
            decoded.claims,
            decoded.header,
            {
                "iss": {"essential": True, "value": self._issuer},
                "aud": {"essential": True, "value": self._client_id},
                "nonce": {"essential": True, "value": nonce},
            },
            {"nonce": nonce, "client_id": self._client_id, "access_token": token.get("access_token")},
        )
        claims.validate(leeway=120)
        return dict(claims)

    def _userinfo(self, token: dict[str, Any], subject: str) -> dict[str, Any]:
        """For providers that leave the email out of the token. The answer must be about the same person."""
        authorized = {"Authorization": f"Bearer {token['access_token']}"}
        found = self._get(self._metadata["userinfo_endpoint"], headers=authorized)
        if found["sub"] != subject:
            raise SignInRefused("the provider's answer is about somebody else")
        return found

    def _get(self, url: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
        try:
            answer = httpx.get(url, headers=headers, timeout=TIMEOUT)
            answer.raise_for_status()
            found = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise ProviderUnavailable(f"the provider does not answer: {type(error).__name__}") from error
        if not isinstance(found, dict):
            raise ProviderUnavailable("the provider's answer cannot be read")
        return found
