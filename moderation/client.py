"""The client for platform engineers: typed, synchronous, and safe in what it repeats.

    from moderation.client import BonaFide

    with BonaFide("http://127.0.0.1:8000", key="bf_…") as bonafide:
        opened = bonafide.submit_file("upload.jpg", external_id="photo-1", reason="user report")
        case = bonafide.wait(opened.id)
        print(case.verdict.label, case.verdict.score)

A call that times out is tried again under the same idempotency key, so that it opens only one case. For calls that
*you* repeat, give an `external_id` (or your own `idempotency_key`): then you always get the same case. Repeating a
decision changes nothing. Only a question is not repeated when it may have arrived.
"""

import hashlib
import json
import mimetypes
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar, cast
from uuid import UUID, uuid4

import httpx
from pydantic import BaseModel
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from moderation.analysis import Label, Technique
from moderation.cases import CaseState, ImageRef
from moderation.decisions import Outcome
from moderation.reports.statements import Harm, Origin, Restriction
from moderation.wire import (
    AppealOut,
    ArtifactAnswerIn,
    BatchOut,
    BatchOutcome,
    CaseAccepted,
    CaseOut,
    CasePage,
    ClaimOut,
    DecisionOut,
    DeliveryOut,
    DeliveryPage,
    EndpointList,
    EndpointOut,
    ImageIn,
    Problem,
    QuestionList,
    QuestionOut,
    RelatedPage,
    StatementOut,
    StatsOut,
    UploadOut,
    WebhookKind,
)

#: Status codes that mean "not now". All others are final.
_PASSING = {429, 502, 503, 504}

#: Errors before anything was sent.
_NOTHING_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)

#: Seconds that a call waits when the API asks it to. If the API asks for more, the call fails at once.
WAIT_AT_MOST = 60.0

#: Where the API keeps what an id names.
_PLACES = {"case": "/v1/cases", "endpoint": "/v1/webhooks", "delivery": "/v1/deliveries"}

#: Items per call of `submit_many`: the API's limit.
BATCH = 1000

_Read = TypeVar("_Read", bound=BaseModel)
_Page = TypeVar("_Page", CasePage, DeliveryPage)


class ApiProblem(Exception):
    """The API refused. `code` is stable, `str(problem)` is a sentence. Nothing changed unless the sentence says so."""

    #: Seconds after which the API may be asked again. None: it did not say.
    retry_after: float | None = None
    #: For `invalid_request`: what is wrong with each field or parameter.
    errors: Sequence[Mapping[str, Any]] = ()
    #: Of `submit_many`: the outcomes of the items before, which were flagged or refused already.
    outcomes: Sequence[BatchOutcome] = ()

    def __init__(self, status: int, code: str, detail: str, request_id: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.request_id = request_id


class ApiUnreachable(ApiProblem):
    """No answer after all retries. The call may have arrived; a submission with an external id may be repeated."""

    def __init__(self, detail: str) -> None:
        super().__init__(503, "unreachable", detail)


class _Passing(Exception):
    """An answer that is worth another try."""

    def __init__(self, problem: ApiProblem) -> None:
        self.problem = problem


class BonaFide:
    """A connection to one Bona Fide API. Threads may share it. Close it, or use it in a `with`.

    Raise ValueError for a URL or a key that can be none.
    """

    def __init__(
        self, url: str, key: str, *, tries: int = 5, timeout: float = 30, http: httpx.Client | None = None
    ) -> None:
        _check_url(url)
        _check_key(key)
        self._http = http or httpx.Client(timeout=timeout)
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"}
        self._tries = tries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # --- submitting

    def submit(
        self,
        image: ImageRef | ImageIn | str,
        *,
        source: str | None = None,
        external_id: str | None = None,
        reason: str | None = None,
        priority: int = 0,
        context: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> CaseAccepted:
        """Flag one image that lies in a bucket Bona Fide may read. Raise ApiProblem.

        `image` may be its address, s3://bucket/key.
        """
        body = {
            "image": _image(image),
            "source": source,
            "external_id": external_id,
            "reason": reason,
            "priority": priority,
            "context": context,
        }
        reply = self._call("POST", "/v1/cases", json=_without_none(body), idempotency_key=idempotency_key)
        return CaseAccepted.model_validate_json(reply.content)

    def submit_many(self, cases: Iterable[Mapping[str, Any]]) -> Iterator[BatchOutcome]:
        """Flag any number of images, a thousand per call of the API. Items have the fields of `submit`.

        All are sent before it returns one outcome per item, in order: it does its work also when nobody reads them. A
        bad item is refused in its place and harms no other. An outcome takes 1.6 KB: submit millions in
        parts. Raise ApiProblem when the API takes no more; its `outcomes` are those of the items before.
        """
        outcomes: list[BatchOutcome] = []
        for items in _chunks(cases, BATCH):
            try:
                outcomes += self._submit_batch(items)
            except ApiProblem as problem:
                problem.outcomes = outcomes
                raise
        return iter(outcomes)

    def _submit_batch(self, items: Sequence[object]) -> Iterator[BatchOutcome]:
        bodies = [_body(item) for item in items]
        sent = [body for body in bodies if not isinstance(body, BatchOutcome)]
        told: Iterator[BatchOutcome] = iter(())
        if sent:
            reply = self._call("POST", "/v1/cases/batch", json={"cases": sent}, idempotency_key=str(uuid4()))
            told = iter(BatchOut.model_validate_json(reply.content).outcomes)
        return (body if isinstance(body, BatchOutcome) else next(told) for body in bodies)

    def upload(self, data: bytes, media_type: str = "image/jpeg") -> ImageIn:
        """Upload an image to a bucket that Bona Fide reads, for platforms without their own bucket.

        Raise ApiProblem; its code is `upload_refused` when the store refuses the bytes.
        """
        wanted = {"media_type": media_type, "sha256": hashlib.sha256(data).hexdigest()}
        permission = self._read(UploadOut, "POST", "/v1/uploads", json=wanted)
        try:
            self._try(lambda: self._http.put(permission.url, content=data, headers=permission.headers))
        except ApiUnreachable:
            raise
        except ApiProblem as problem:
            said = f"storage refused the upload: {problem}"
            raise ApiProblem(problem.status, "upload_refused", said) from problem
        return permission.image

    def submit_file(self, path: str | Path, **flag: Any) -> CaseAccepted:
        """Upload a file and flag it. Takes the arguments of `submit`."""
        guessed, _ = mimetypes.guess_type(str(path))
        media_type = guessed if guessed is not None and guessed.startswith("image/") else "image/jpeg"
        return self.submit(self.upload(Path(path).read_bytes(), media_type), **flag)

    # --- reading

    def case(self, case_id: UUID | str) -> CaseOut:
        """One case as it is now. Raise ApiProblem with code `case_not_found`."""
        return self._read(CaseOut, "GET", _path("case", case_id))

    def cases(
        self,
        *,
        state: CaseState | str | None = None,
        source: str | None = None,
        external_id: str | None = None,
        since: date | str | None = None,
        until: date | str | None = None,
        verdict: Label | str | None = None,
        technique: Technique | str | None = None,
        outcome: Outcome | str | None = None,
        decided_since: date | str | None = None,
        decided_until: date | str | None = None,
    ) -> Iterator[CaseOut]:
        """All cases that fit, the newest first, fetched page by page as you go on.

        `verdict="none"` means cases without a verdict. With `outcome`, `decided_since` or `decided_until` the last
        decided cases come first. A time may be a text in ISO 8601; without a zone it is local time. Raise ValueError
        for a text that is no time.
        """
        query = {
            "state": state,
            "source": source,
            "external_id": external_id,
            "since": _utc(since),
            "until": _utc(until),
            "verdict": verdict,
            "technique": technique,
            "outcome": outcome,
            "decided_since": _utc(decided_since),
            "decided_until": _utc(decided_until),
        }
        return self._cases("/v1/cases", query)

    def search(self, text: str, *, field: str | None = None, source: str | None = None) -> Iterator[CaseOut]:
        """Find cases by something you know of them, the newest first.

        `text` is an id or its beginning, your own id, the image's key, the sha256 of its bytes, a source, or a text in
        the context. `field` says which of these it is.
        """
        return self._cases("/v1/search", {"q": text, "field": field, "source": source})

    def related(self, case_id: UUID | str) -> RelatedPage:
        """Cases and lists with pictures that look like this one. A likeness alone proves nothing."""
        return self._read(RelatedPage, "GET", _path("case", case_id, "/related"))

    def statement(
        self,
        case_id: UUID | str,
        *,
        restriction: Restriction | str | None = None,
        harm: Harm | str | None = None,
        origin: Origin | str | None = None,
    ) -> StatementOut:
        """A draft statement of reasons for the current decision, or for the one whose appeal is open.

        Raise ApiProblem: `nothing_decided`.
        """
        query = _without_none({"restriction": restriction, "harm": harm, "origin": origin})
        return self._read(StatementOut, "GET", _path("case", case_id, "/statement"), params=query)

    def withdraw(self, case_id: UUID | str) -> CaseOut:
        """Take an image back: its case ends without a decision, and nobody looks at it any more.

        The second call does nothing. Raise ApiProblem: `already_decided`, `case_erased`.
        """
        return self._read(CaseOut, "POST", _path("case", case_id, "/withdraw"))

    def erase(self, case_id: UUID | str) -> CaseOut:
        """Erase, for ever, the texts of a case that has ended and the place of its image.

        The second call does nothing.
        """
        return self._read(CaseOut, "POST", _path("case", case_id, "/erase"))

    def wait(self, case_id: UUID | str, *, timeout: float = 300, every: float = 0.5) -> CaseOut:
        """Wait until the case is ready, with a verdict or a refusal, or withdrawn; return it. Raise TimeoutError."""
        deadline = time.monotonic() + timeout
        while True:
            case = self.case(case_id)
            if case.state not in (CaseState.WAITING, CaseState.ANALYZING):
                return case
            if time.monotonic() + every > deadline:
                raise TimeoutError(f"case {case_id} is still {case.state} after {timeout:.0f} seconds")
            time.sleep(every)

    # --- deciding

    def claim(self, case_id: UUID | str, *, reviewer: str) -> ClaimOut:
        """Claim a ready case for one of your reviewers, or renew the claim. Raise ApiProblem."""
        return self._read(ClaimOut, "POST", _path("case", case_id, "/claim"), json={"reviewer": reviewer})

    def release(self, case_id: UUID | str, *, reviewer: str, token: int) -> None:
        """Release a case to the queue. Harmless when the claim was lost."""
        self._call("POST", _path("case", case_id, "/release"), json={"reviewer": reviewer, "token": token})

    def decide(
        self,
        case_id: UUID | str,
        outcome: Outcome | str,
        *,
        reviewer: str,
        claim: ClaimOut,
        technique: Technique | str | None = None,
        reason: str | None = None,
        policy: str | None = None,
        feedback: Sequence[ArtifactAnswerIn] = (),
    ) -> DecisionOut:
        """Decide a claimed case. Raise ApiProblem, for example `stale_case` when the case has changed.

        Repeating the decision returns the first one, as long as nothing else has happened to the case.
        """
        body = {
            "reviewer": reviewer,
            "token": claim.token,
            "version": claim.version,
            "outcome": outcome,
            "technique": technique,
            "reason": reason,
            "policy": policy,
            "feedback": [said.model_dump() for said in feedback],
        }
        return self._read(DecisionOut, "POST", _path("case", case_id, "/decision"), json=_without_none(body))

    def appeal(self, case_id: UUID | str, reason: str, *, external_id: str | None = None) -> AppealOut:
        """Submit the uploader's appeal. Repeating an appeal returns the first one."""
        body = _without_none({"reason": reason, "external_id": external_id})
        return self._read(AppealOut, "POST", _path("case", case_id, "/appeal"), json=body)

    def ask(self, case_id: UUID | str, question: str, *, face: int | None = None) -> QuestionOut:
        """Ask DFA-GPT about a face, by its place in `faces` from 1. None: the first face that was judged.

        `questions` has the answer once a worker has given it. The call is not repeated when the question may have
        arrived: after `ApiUnreachable` or a 5xx, look into `questions`.
        """
        path = _path("case", case_id, "/questions")
        asked = {"question": question, **({} if face is None else {"face": face})}
        return self._read(QuestionOut, "POST", path, json=asked, repeatable=False)

    def questions(self, case_id: UUID | str) -> QuestionList:
        """The questions about a case, with their answers."""
        return self._read(QuestionList, "GET", _path("case", case_id, "/questions"))

    # --- webhooks

    def add_webhook(
        self, url: str, *, kinds: Sequence[WebhookKind] | None = None, source: str | None = None
    ) -> EndpointOut:
        """Add an endpoint. Its `secret` verifies signatures; only this answer contains it."""
        body = _without_none({"url": url, "kinds": None if kinds is None else list(kinds), "source": source})
        return self._read(EndpointOut, "POST", "/v1/webhooks", json=body)

    def webhooks(self) -> list[EndpointOut]:
        """The endpoints, without their secrets."""
        return self._read(EndpointList, "GET", "/v1/webhooks").webhooks

    def remove_webhook(self, endpoint_id: UUID | str) -> None:
        """Remove an endpoint, with its waiting deliveries and its log."""
        self._call("DELETE", _path("endpoint", endpoint_id))

    def rotate_webhook(self, endpoint_id: UUID | str) -> EndpointOut:
        """Make a new secret and return it. The old secret also signs until the next rotation."""
        return self._read(EndpointOut, "POST", _path("endpoint", endpoint_id, "/rotate"), repeatable=False)

    def deliveries(self, endpoint_id: UUID | str) -> Iterator[DeliveryOut]:
        """The deliveries to an endpoint, the newest first, fetched page by page as you go on."""
        for page in self._pages(DeliveryPage, _path("endpoint", endpoint_id, "/deliveries"), {}):
            yield from page.deliveries

    def resend(self, delivery_id: UUID | str) -> DeliveryOut:
        """Send a delivery again, under the same webhook-id."""
        return self._read(DeliveryOut, "POST", _path("delivery", delivery_id, "/resend"))

    # --- the line

    def queue_stats(self) -> StatsOut:
        """The state of the line, and how long a case submitted now would wait."""
        return self._read(StatsOut, "GET", "/v1/queue/stats")

    # --- underneath

    def _cases(self, path: str, query: Mapping[str, Any]) -> Iterator[CaseOut]:
        for page in self._pages(CasePage, path, query):
            yield from page.cases

    def _pages(self, shape: type[_Page], path: str, query: Mapping[str, Any]) -> Iterator[_Page]:
        cursor: UUID | str | None = None
        while True:
            params = _without_none({**query, "limit": 200, "cursor": cursor})
            page = self._read(shape, "GET", path, params=params)
            yield page
            cursor = page.next_cursor
            if cursor is None:
                return

    def _read(self, shape: type[_Read], method: str, path: str, **kwargs: Any) -> _Read:
        return shape.model_validate_json(self._call(method, path, **kwargs).content)

    def _call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        repeatable: bool = True,
    ) -> httpx.Response:
        headers = dict(self._headers)
        if method == "POST":
            # All tries use the same key. That makes a retry harmless.
            headers["Idempotency-Key"] = idempotency_key or str(uuid4())
        url = self._url + path
        return self._try(
            lambda: self._http.request(method, url, json=json, params=params, headers=headers),
            repeatable=repeatable,
        )

    def _try(self, call: Any, *, repeatable: bool = True) -> httpx.Response:
        attempts = Retrying(
            retry=retry_if_exception(_passes if repeatable else _did_nothing),
            stop=stop_after_attempt(self._tries),
            wait=_wait,
            reraise=True,
        )
        try:
            for attempt in attempts:
                with attempt:
                    return _checked(call())
        except _Passing as passing:
            raise passing.problem from None
        except httpx.TransportError as error:
            raise ApiUnreachable(f"{self._url} does not answer: {error}") from error
        raise AssertionError("Retrying either returns or raises")


def _check_url(url: str) -> None:
    try:
        known = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{url!r} is no URL of an API: {error}") from error
    if known.scheme not in ("http", "https") or not known.host:
        raise ValueError(f"{url!r} is no URL of an API: it begins with https:// or http:// and names a host")


def _check_key(key: str) -> None:
    # The key is a secret, so the sentence does not repeat it.
    if not key or not all("!" <= letter <= "~" for letter in key):
        raise ValueError(
            "the API key is empty, or holds a space, a line break or a character outside ASCII: copy it again"
        )


def _path(kind: str, named: UUID | str, call: str = "") -> str:
    """The path of a call about what an id names. What is no id names nothing: raise the API's ApiProblem for that."""
    try:
        known = UUID(str(named))
    except ValueError as error:
        raise ApiProblem(404, f"{kind}_not_found", f"no {kind} has the id {str(named)!r}") from error
    return f"{_PLACES[kind]}/{known}{call}"


def _passes(error: BaseException) -> bool:
    return isinstance(error, (_Passing, httpx.TransportError))


def _did_nothing(error: BaseException) -> bool:
    """Whether the call was certainly not executed."""
    refused = isinstance(error, _Passing) and error.problem.status == 429
    return refused or isinstance(error, _NOTHING_SENT)


def _wait(state: RetryCallState) -> float:
    error = None if state.outcome is None else state.outcome.exception()
    if isinstance(error, _Passing) and error.problem.retry_after is not None:
        return error.problem.retry_after
    return wait_random_exponential(multiplier=0.2, max=10)(state)


def _checked(reply: httpx.Response) -> httpx.Response:
    if reply.is_success:
        return reply
    try:
        body = reply.json()
        problem = ApiProblem(reply.status_code, body["code"], body["detail"], body.get("request_id"))
        problem.errors = body.get("errors") or ()
    except (ValueError, KeyError, TypeError):
        problem = ApiProblem(reply.status_code, "http_error", f"HTTP {reply.status_code}: {reply.text[:200]}")
    after = reply.headers.get("Retry-After", "")
    problem.retry_after = float(after) if after.isdigit() else None
    if reply.status_code in _PASSING and (problem.retry_after or 0.0) <= WAIT_AT_MOST:
        raise _Passing(problem)
    raise problem


def image_at(address: str) -> ImageRef:
    """What s3://bucket/key names."""
    bucket, _, key = address.removeprefix("s3://").partition("/")
    return ImageRef(bucket, key)


def _image(image: object) -> object:
    """An image as the API reads it. What is none is left as it is: the API refuses it and says why."""
    if isinstance(image, str) and image.startswith("s3://"):
        image = image_at(image)
    if isinstance(image, ImageRef | ImageIn):
        return _without_none({"bucket": image.bucket, "key": image.key, "version_id": image.version_id})
    return dict(cast("Mapping[str, Any]", image)) if isinstance(image, Mapping) else image


def _body(item: Any) -> object:
    """An item of a batch as the API reads it, or its refusal when it cannot be sent."""
    body = _without_none({**item, "image": _image(item.get("image"))}) if isinstance(item, Mapping) else item
    try:
        json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        detail = f"the item cannot be written as JSON: {error}"
        problem = Problem(title="Invalid request", status=422, code="invalid_request", detail=detail)
        return BatchOutcome(status=422, problem=problem)
    return body


def _utc(moment: date | str | None) -> str | None:
    if moment is None:
        return None
    at = moment if isinstance(moment, datetime) else datetime.fromisoformat(str(moment))
    return at.astimezone(UTC).isoformat()


def _without_none(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _chunks(items: Iterable[Mapping[str, Any]], size: int) -> Iterator[Sequence[Mapping[str, Any]]]:
    left = iter(items)
    while chunk := list(islice(left, size)):
        yield chunk
