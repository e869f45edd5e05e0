"""`bonafide bridge`: takes a store's notifications from a queue and opens a case for each object that was created."""

import json
import signal
import threading
from typing import Annotated, Any

import boto3
import structlog
import typer
from botocore.exceptions import BotoCoreError, ClientError

from moderation.client import ApiProblem, ApiUnreachable, BonaFide
from moderation.errors import NotificationUnreadable, SetupProblem
from moderation.logs import configure_logs
from moderation.notifications import created_objects
from moderation.settings import settings

#: Messages taken at once, and seconds that one look waits for the first: the most that SQS allows.
MESSAGES, LOOK_SECONDS = 10, 20
#: Seconds a message is hidden from others while we work on it. Every try of the client fits.
HIDDEN_SECONDS = 120
#: Seconds without a try after the queue did not answer.
QUIET_SECONDS = 5.0

log = structlog.get_logger()

app = typer.Typer(help="From a store's notifications to cases.", no_args_is_help=True)


@app.callback()
def bridge() -> None:
    """A group, so that `sqs` is named."""


@app.command()
def sqs(
    queue_url: Annotated[
        str | None, typer.Argument(help="The queue. [default: BONAFIDE_BRIDGE_QUEUE_URL]")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="End when the queue is empty.")] = False,
) -> None:
    """Read S3's notifications from SQS until stopped, with the rights of the AWS chain and of BONAFIDE_API_KEY."""
    chosen = settings()
    configure_logs(chosen)
    url = queue_url or chosen.bridge_queue_url
    if url is None or chosen.api_key is None:
        missing = "BONAFIDE_API_KEY" if url is not None else "a queue's URL, or BONAFIDE_BRIDGE_QUEUE_URL"
        raise SetupProblem(f"the bridge needs {missing}")
    stop = threading.Event()

    def end(*_: object) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    queue = boto3.client("sqs", region_name=chosen.s3_region)
    with BonaFide(chosen.api_url, chosen.api_key.get_secret_value()) as client:
        carry(queue, url, client, stop, once=once)


def carry(queue: Any, url: str, client: BonaFide, stop: threading.Event, *, once: bool = False) -> None:
    """Open a case for every object that the queue tells of, until `stop`. Only then a message leaves the queue."""
    while not stop.is_set():
        try:
            reply = queue.receive_message(
                QueueUrl=url,
                MaxNumberOfMessages=MESSAGES,
                WaitTimeSeconds=0 if once else LOOK_SECONDS,
                VisibilityTimeout=HIDDEN_SECONDS,
            )
            messages = reply.get("Messages", [])
            for message in messages:
                if _carried(message["Body"], client):
                    queue.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        except (BotoCoreError, ClientError) as error:
            log.warning("queue_unavailable", action="bridge", error=str(error))
            stop.wait(QUIET_SECONDS)
            continue
        if once and not messages:
            return


def _carried(body: str, client: BonaFide) -> bool:
    """Whether every object in the message has its case. Otherwise the queue will show it again, or set it aside.

    What can never succeed stays too: the queue's redrive policy moves it to a queue for an engineer.
    """
    try:
        for created in created_objects(json.loads(body)):
            accepted = client.submit(created.image, external_id=created.external_id)
            log.info("case_opened", action="bridge", case=str(accepted.id))
    except (ValueError, NotificationUnreadable) as error:
        log.error("notification_unreadable", action="bridge", error=str(error))
        return False
    except ApiUnreachable as error:
        log.warning("api_unreachable", action="bridge", error=str(error))
        return False
    except ApiProblem as problem:
        log.error("case_refused", action="bridge", code=problem.code, error=problem.detail)
        return False
    return True
