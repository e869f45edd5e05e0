"""`bonafide bridge`: reads a store's notifications from a queue and opens a case for each new object."""

import json
import signal
import threading
import time
from collections.abc import Sequence
from typing import Annotated, Any

import boto3
import structlog
import typer
from botocore.exceptions import BotoCoreError, ClientError

from moderation.cli.cases import open_client
from moderation.client import ApiProblem, BonaFide
from moderation.errors import NotificationUnreadable, SetupProblem
from moderation.logs import configure_logs
from moderation.notifications import created_objects
from moderation.settings import settings

#: Messages taken at once, and seconds that one look waits for the first. Both are the most that SQS allows.
MESSAGES, LOOK_SECONDS = 10, 20
#: Seconds that a message is hidden from others, and seconds after which it is hidden again. One more try of the client
#: (30 seconds) and the longest pause fit between.
HIDDEN_SECONDS, HIDE_AGAIN_SECONDS = 120, 30.0
#: Seconds to wait after the queue did not answer.
QUIET_SECONDS = 5.0
#: Seconds between two tries while the API takes nothing: the first pause and the longest. Each is twice the last.
FIRST_PAUSE, PAUSE_AT_MOST = 2.0, 30.0
#: Tries of a message while the API answers with its own fault. The message may be the cause, or not.
FAULTS_AT_MOST = 5

#: Answers about the object itself: another try gets the same.
_REFUSALS = {400, 409, 413, 422}

log = structlog.get_logger()

app = typer.Typer(help="Open cases from a store's notifications.", no_args_is_help=True)


@app.callback()
def bridge() -> None:
    """Typer drops the name of a group's only command; a callback keeps `sqs`."""


@app.command()
def sqs(
    queue_url: Annotated[
        str | None, typer.Argument(help="The queue.", show_default="BONAFIDE_BRIDGE_QUEUE_URL")
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Stop when the queue is empty, or the API takes nothing.")
    ] = False,
) -> None:
    """Read S3's notifications from SQS until stopped. It uses the AWS credential chain and BONAFIDE_API_KEY."""
    configure_logs(settings())
    url, key = queue_url or settings().bridge_queue_url, settings().api_key
    if url is None or key is None:
        missing = "BONAFIDE_API_KEY" if url is not None else "a queue's URL, or BONAFIDE_BRIDGE_QUEUE_URL"
        raise SetupProblem(f"the bridge needs {missing}")
    stop = threading.Event()

    def end(*_: object) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    queue = boto3.client("sqs", region_name=settings().s3_region)
    # One try each. We pause between tries ourselves: SIGTERM can end the pause, and messages stay hidden.
    with open_client(tries=1) as client:
        carry(queue, url, client, stop, once=once)


class _NotNow(Exception):
    """The API takes nothing now: it is away, or busy, or does not accept our key."""

    def __init__(self, problem: ApiProblem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def carry(queue: Any, url: str, client: BonaFide, stop: threading.Event, *, once: bool = False) -> None:
    """Open a case for every object that the queue names, until `stop`. A message leaves the queue after that.

    While the API takes nothing, no more messages are received: the queue counts how often each was, and sets aside
    those above its limit. With `once` this ends instead.
    """
    while not stop.is_set():
        try:
            reply = queue.receive_message(
                QueueUrl=url,
                MaxNumberOfMessages=MESSAGES,
                WaitTimeSeconds=0 if once else LOOK_SECONDS,
                VisibilityTimeout=HIDDEN_SECONDS,
            )
            messages = reply.get("Messages", [])
            left = _carry_all(queue, url, messages, client, stop, once=once)
            _hide(queue, url, left, 0)
        except (BotoCoreError, ClientError) as error:
            log.warning("queue_unavailable", action="bridge", error=str(error))
            stop.wait(QUIET_SECONDS)
            continue
        if once and (left or not messages):
            return


def _carry_all(
    queue: Any, url: str, messages: Sequence[Any], client: BonaFide, stop: threading.Event, *, once: bool
) -> Sequence[Any]:
    """Open the cases of these messages, in order; return the messages left when we must stop."""
    left, hidden_at = list(messages), time.monotonic()
    tries, pause = 0, FIRST_PAUSE
    while left and not stop.is_set():
        if time.monotonic() - hidden_at > HIDE_AGAIN_SECONDS:
            _hide(queue, url, left, HIDDEN_SECONDS)
            hidden_at = time.monotonic()
        try:
            carried = _carried(left[0]["Body"], client)
        except _NotNow as refusal:
            tries += 1
            fault = refusal.problem.status == 500
            if once and not fault:
                break
            if not once and not (fault and tries >= FAULTS_AT_MOST):
                stop.wait(pause)
                pause = min(2 * pause, PAUSE_AT_MOST)
                continue
            carried = False
        message = left.pop(0)
        tries, pause = 0, FIRST_PAUSE
        if carried:
            queue.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return left


def _hide(queue: Any, url: str, messages: Sequence[Any], seconds: int) -> None:
    """Hide the messages from others for this long. 0: others get them at once."""
    if messages:
        entries = [
            {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"], "VisibilityTimeout": seconds}
            for number, message in enumerate(messages)
        ]
        queue.change_message_visibility_batch(QueueUrl=url, Entries=entries)


def _carried(body: str, client: BonaFide) -> bool:
    """Whether every object in the message has its case now. False: an object cannot get one.

    Such a message stays on the queue. It is received again, until the redrive policy moves it to a queue for an
    engineer. Raise _NotNow.
    """
    try:
        objects = created_objects(json.loads(body))
    except (ValueError, NotificationUnreadable) as error:
        log.error("notification_unreadable", action="bridge", error=str(error))
        return False
    try:
        for created in objects:
            accepted = client.submit(created.image, external_id=created.external_id)
            log.info("case_opened", action="bridge", case=str(accepted.id))
    except ApiProblem as problem:
        # An answer without a code comes from a proxy and says nothing about the object.
        if problem.status in _REFUSALS and problem.code != "http_error":
            log.error("case_refused", action="bridge", code=problem.code, error=problem.detail)
            return False
        log.warning("api_takes_nothing", action="bridge", code=problem.code, error=problem.detail)
        raise _NotNow(problem) from problem
    return True
