"""Artifact descriptions by a vision model behind any OpenAI-compatible endpoint, for pictures with a known mask.

The mask decides: the model is told which regions differ and may describe no others. Half of the lab's pictures are
shown alone, half with the face they were made from. Some calls are controls, a face with its own re-encoding: every
artifact named there is invented, and counted. Every call is noted in `annotations.jsonl`, so an interrupted run pays
for nothing twice, and the costs of all runs are known.
"""

import base64
import datetime
import email.utils
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from moderation.analysis import Region, Technique
from moderation.dfa.instruct.filters import MOST_WORDS, sieved
from moderation.errors import SetupProblem, Unavailable

#: Stored in every annotation. Raise it with every change of the prompts below.
ANNOTATION_VERSION = 1

#: Attempts per call, and the longest wait between two that an endpoint may ask for, in seconds.
ATTEMPTS, LONGEST_WAIT = 5, 300.0
#: Most calls for one picture until an answer is readable.
READINGS = 2
#: After this many failed pictures in a row, the endpoint counts as gone.
MOST_UNREACHABLE = 8
#: Most tokens of one answer.
LONGEST_ANSWER = 500

_TASK = """\
This face was forged by {technique}. A comparison of its pixels has shown which regions were changed: {regions}.
For each of these regions in which a trace can be seen, write one sentence of at most {words} words that says what looks
wrong there: seams, blur, texture, colour, light, shape. Name no other region. Say only what can be seen, in plain
words, and nothing about who the person is or may be, nor about age, sex or origin."""

_ALONE = f"{_TASK}\n"

_BESIDE = f"""\
Two pictures follow: a face as it was, then the same face after it was changed.
{_TASK}
Describe the changed face as if you had never seen the other: do not mention a comparison, a change or another picture.
"""

_FORM = """\
Answer with JSON and nothing else, in this form:
{"artifacts": [{"region": "mouth", "text": "The lips are blurred and lack fine lines."}]}
A region is one of the list above, spelt as there; each once. When nothing can be seen, the list is empty."""


@dataclass(frozen=True)
class Endpoint:
    """The vision model's endpoint."""

    #: Includes the version: "https://api.example.com/v1".
    url: str
    model: str
    #: Sent as a bearer token. None for an endpoint without authentication.
    key: str | None = None
    timeout: float = 60.0  # seconds, to connect and between two bytes


@dataclass(frozen=True)
class Wanted:
    """One forged picture to describe."""

    name: str
    technique: Technique
    #: The only regions that may be described: those that the mask supports.
    regions: tuple[Region, ...]
    picture: bytes  # JPEG
    #: The face before the forgery. None when the picture is shown alone.
    before: bytes | None = None
    #: True when both pictures show the same unforged face, so that no artifact should be named.
    control: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.picture).hexdigest()

    @property
    def kind(self) -> str:
        return "control" if self.control else "single" if self.before is None else "pair"


@dataclass(frozen=True)
class Annotation:
    """The outcome for one picture, and its cost."""

    name: str
    #: Of the picture, in hexadecimal. Another picture with the same name is asked again.
    sha256: str
    model: str
    version: int
    kind: str  # single, pair or control
    #: "described", or why the description comes from the exact facts instead.
    outcome: str
    #: (region, sentence) pairs that passed every filter.
    artifacts: tuple[tuple[str, str], ...]
    #: One reason for each pair that did not pass.
    left_out: tuple[str, ...]
    calls: int
    #: One reason for each failed HTTP attempt.
    failures: tuple[str, ...]
    #: As counted by the endpoint. 0 when it does not say.
    tokens_in: int
    tokens_out: int


DESCRIBED, UNREAD, NOTHING_LEFT, UNREACHABLE = "described", "unreadable", "nothing left", "unreachable"


class _Artifact(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    region: str
    text: str


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    artifacts: list[_Artifact]


class _TryAgain(Exception):
    """The endpoint is busy, broken or silent at the moment."""

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait  # seconds that the endpoint asked for


class Annotator:
    """Describes pictures one by one and keeps the notebook. Many threads may call it at once."""

    def __init__(
        self,
        endpoint: Endpoint,
        notebook: Path,
        *,
        client: httpx.Client | None = None,
        pause: Callable[[float], None] | None = None,
    ) -> None:
        """Open the notebook of earlier runs, or begin one.

        Args:
            endpoint: the model's endpoint.
            notebook: `annotations.jsonl`. Pictures in it are not asked again.
            client: the HTTP client. None: a new one.
            pause: waits between attempts. None: sleep.
        """
        self.endpoint = endpoint
        headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
        self._client = client or httpx.Client(timeout=endpoint.timeout, headers=headers)
        self._pause = pause or time.sleep
        self._notebook = notebook
        self._lock = threading.Lock()
        self._noted = _read(notebook)
        self._unreachable = 0

    def annotate(self, wanted: Wanted) -> Annotation:
        """Describe a picture, or take an earlier run's description.

        Raise SetupProblem when the endpoint refuses a request, Unavailable when it fails too often in a row.
        """
        known = self._noted.get(wanted.name)
        asked = (wanted.sha256, self.endpoint.model, ANNOTATION_VERSION)
        if known and known.outcome != UNREACHABLE and (known.sha256, known.model, known.version) == asked:
            return known
        annotation = self._asked(wanted)
        with self._lock:
            self._unreachable = self._unreachable + 1 if annotation.outcome == UNREACHABLE else 0
            if self._unreachable >= MOST_UNREACHABLE:
                raise Unavailable(
                    f"{self.endpoint.url} failed {MOST_UNREACHABLE} times in a row "
                    f"({', '.join(sorted(set(annotation.failures)))}). Start again to continue from here."
                )
            self._noted[wanted.name] = annotation
            with self._notebook.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(asdict(annotation), ensure_ascii=False) + "\n")
        return annotation

    def counts(self) -> Counter[str]:
        """Costs, failures and left-out sentences of all runs in this notebook."""
        counts: Counter[str] = Counter()
        for annotation in self._noted.values():
            counts["annotator: calls"] += annotation.calls
            counts["annotator: tokens in"] += annotation.tokens_in
            counts["annotator: tokens out"] += annotation.tokens_out
            counts.update(f"annotator: attempt failed: {failure}" for failure in annotation.failures)
            if annotation.kind == "control":
                counts["annotator: controls"] += 1
                counts["annotator: controls that named artifacts on an unforged face"] += bool(
                    annotation.artifacts
                )
                continue
            counts[f"annotator: {annotation.kind} pictures {annotation.outcome}"] += 1
            counts.update(f"annotator: sentence left out: {reason}" for reason in annotation.left_out)
        return counts

    def _asked(self, wanted: Wanted) -> Annotation:
        failures: list[str] = []
        spent = Counter[str]()
        outcome, artifacts, left_out = UNREAD, (), ()
        for reading in range(READINGS):
            try:
                reply = self._call(wanted, failures, temperature=0.4 * reading)
            except _TryAgain:
                outcome = UNREACHABLE
                break
            spent.update(_usage(reply))
            answer = _read_answer(reply)
            if answer is None:
                continue
            artifacts, left_out = sieved(
                [(artifact.region, artifact.text) for artifact in answer.artifacts], wanted.regions
            )
            outcome = DESCRIBED if artifacts or wanted.control else NOTHING_LEFT
            break
        return Annotation(
            name=wanted.name,
            sha256=wanted.sha256,
            model=self.endpoint.model,
            version=ANNOTATION_VERSION,
            kind=wanted.kind,
            outcome=outcome,
            artifacts=artifacts,
            left_out=left_out,
            calls=spent["calls"],
            failures=tuple(failures),
            tokens_in=spent["in"],
            tokens_out=spent["out"],
        )

    def _call(self, wanted: Wanted, failures: list[str], *, temperature: float) -> Mapping[str, Any]:
        """One answer of the endpoint. A temporary failure is retried after the wait that the endpoint asks for."""
        body = {
            "model": self.endpoint.model,
            "temperature": temperature,
            "max_tokens": LONGEST_ANSWER,
            "messages": [{"role": "user", "content": _content(wanted)}],
        }
        retrying = Retrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=_wait,
            retry=retry_if_exception_type(_TryAgain),
            before_sleep=lambda state: _note(state, failures),
            sleep=self._pause,
            reraise=True,
        )
        try:
            return retrying(self._post, body)
        except _TryAgain as error:
            failures.append(str(error))
            raise

    def _post(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            reply = self._client.post(f"{self.endpoint.url.rstrip('/')}/chat/completions", json=body)
        except httpx.TimeoutException as error:
            raise _TryAgain("timeout") from error
        except httpx.TransportError as error:
            raise _TryAgain("no connection") from error
        if reply.status_code == httpx.codes.TOO_MANY_REQUESTS or reply.is_server_error:
            raise _TryAgain(f"HTTP {reply.status_code}", _retry_after(reply.headers.get("Retry-After")))
        if not reply.is_success:
            raise SetupProblem(
                f"{self.endpoint.url} answers {reply.status_code} to a request: {reply.text[:200].strip()} "
                "Check --annotator, --annotator-model and BONAFIDE_ANNOTATOR_KEY."
            )
        try:
            data: Any = reply.json()
        except ValueError:
            return {}
        return data if isinstance(data, dict) else {}


def _read(notebook: Path) -> dict[str, Annotation]:
    if not notebook.is_file():
        return {}
    noted: dict[str, Annotation] = {}
    for line in notebook.read_text(encoding="utf-8").splitlines():
        try:
            fields = json.loads(line)
        except ValueError:
            continue  # the last line of a run that was killed while writing
        for name in ("artifacts", "left_out", "failures"):
            fields[name] = tuple(tuple(value) if isinstance(value, list) else value for value in fields[name])
        noted[fields["name"]] = Annotation(**fields)
    return noted


def _note(state: RetryCallState, failures: list[str]) -> None:
    if state.outcome is not None:
        failures.append(str(state.outcome.exception()))


_exponential = wait_random_exponential(multiplier=1, max=60)


def _wait(state: RetryCallState) -> float:
    """Seconds that the endpoint asks for, or a random time that grows with each attempt."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, _TryAgain) and error.wait is not None:
        return min(error.wait, LONGEST_WAIT)
    return _exponential(state)


def _retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header, which may be a number or a date."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        until = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max((until - datetime.datetime.now(datetime.UTC)).total_seconds(), 0.0)


def _content(wanted: Wanted) -> list[Mapping[str, Any]]:
    task = _ALONE if wanted.before is None else _BESIDE
    text = task.format(
        technique=wanted.technique.words,
        regions=", ".join(_listed(region) for region in wanted.regions),
        words=MOST_WORDS,
    )
    pictures = [picture for picture in (wanted.before, wanted.picture) if picture is not None]
    return [{"type": "text", "text": text + _FORM}, *map(_shown, pictures)]


def _listed(region: Region) -> str:
    return "unmapped (the whole picture)" if region is Region.UNMAPPED else region.value


def _shown(picture: bytes) -> Mapping[str, Any]:
    encoded = base64.b64encode(picture).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{encoded}"}}


def _usage(reply: Mapping[str, Any]) -> Mapping[str, int]:
    usage = reply.get("usage")
    counted = usage if isinstance(usage, dict) else {}
    written, read = counted.get("completion_tokens"), counted.get("prompt_tokens")
    return {"calls": 1, "in": int(read or 0), "out": int(written or 0)}


def _read_answer(reply: Mapping[str, Any]) -> _Answer | None:
    """The requested JSON, bare or in a code block. None for anything else."""
    try:
        text = reply["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        return None
    if not isinstance(text, str):
        return None
    bare = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    try:
        return _Answer.model_validate_json(bare)
    except ValidationError:
        return None
