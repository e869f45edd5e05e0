"""Endpoints of platforms: their secrets, and the log of what was sent to each."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from moderation.database.connection import Database
from moderation.database.outbox import Kind
from moderation.errors import DeliveryNotFound, EndpointNotFound, EndpointRefused
from moderation.settings import Settings
from moderation.webhooks import delivery_rows as rows
from moderation.webhooks.delivery_rows import Delivery, Endpoint
from moderation.webhooks.post import check_url, target_of

#: Deliveries of a log that one transaction deletes.
PAGE = 5000


@dataclass(frozen=True)
class Added:
    """An endpoint that gets webhooks from now on."""

    endpoint: Endpoint
    #: Verifies signatures. None: the endpoint existed already, and its secret was shown then.
    secret: str | None


class Webhooks:
    """Endpoints and their logs. The callers check who may do this: by `people.Act`, or an API key's scope."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._private = settings.webhook_private_targets

    def add(self, url: str, kinds: Sequence[Kind] = tuple(Kind), source: str | None = None) -> Added:
        """Send webhooks to this URL from now on. Raise EndpointRefused.

        The same URL for the same source is the same endpoint, so that nothing is sent twice. It is enabled, and gets
        the kinds of the last call.
        """
        check_url(url, private=self._private)
        if not kinds:
            raise EndpointRefused("an endpoint takes at least one kind of webhook")
        wanted = [kind for kind in Kind if kind in kinds]
        target = target_of(url)
        with self._database.transaction() as session:
            rows.lock_target(session, target)
            for known in rows.list_endpoints(session):
                if known.source == source and target_of(known.url) == target:
                    values = [kind.value for kind in wanted]
                    changed = rows.change_endpoint(session, known.id, kinds=values, disabled_at=None)
                    return Added(_found(changed), None)
            made = rows.insert_endpoint(session, url=url, kinds=wanted, source=source)
        return Added(made, made.secrets[0])

    def endpoints(self) -> list[Endpoint]:
        with self._database.transaction() as session:
            return rows.list_endpoints(session)

    def endpoint(self, endpoint_id: UUID) -> Endpoint:
        """The endpoint with this id. Raise EndpointNotFound."""
        with self._database.transaction() as session:
            return _found(rows.find_endpoint(session, endpoint_id))

    def disable(self, endpoint_id: UUID) -> Endpoint:
        """Disable it. Its deliveries wait until it is enabled again."""
        with self._database.transaction() as session:
            return _found(rows.change_endpoint(session, endpoint_id, disabled_at=datetime.now(UTC)))

    def enable(self, endpoint_id: UUID) -> Endpoint:
        with self._database.transaction() as session:
            return _found(rows.change_endpoint(session, endpoint_id, disabled_at=None))

    def rotate(self, endpoint_id: UUID) -> Endpoint:
        """Add a new secret, the first of the result. The old one also signs until the next rotation."""
        with self._database.transaction() as session:
            return _found(rows.rotate_secret(session, endpoint_id))

    def remove(self, endpoint_id: UUID) -> None:
        """Remove it with its log and its waiting deliveries. Raise EndpointNotFound."""
        self.disable(endpoint_id)  # it gets no new deliveries
        # In pages: one statement could not delete the log of a busy year in time.
        full = True
        while full:
            with self._database.transaction() as session:
                full = rows.delete_log(session, endpoint_id, at_most=PAGE) == PAGE
        with self._database.transaction() as session:
            if not rows.delete_endpoint(session, endpoint_id):
                raise EndpointNotFound(f"no webhook endpoint has the id {endpoint_id}")

    def deliveries(self, endpoint_id: UUID, *, limit: int = 50, before: UUID | None = None) -> list[Delivery]:
        """A page of its log, the newest first. `before` is the last id of the previous page. Raise EndpointNotFound."""
        with self._database.transaction() as session:
            _found(rows.find_endpoint(session, endpoint_id))
            return rows.deliveries_of(session, endpoint_id, limit=limit, before=before)

    def dead(self, *, limit: int = 50) -> list[Delivery]:
        """Deliveries that were given up, the newest first."""
        with self._database.transaction() as session:
            return rows.dead_deliveries(session, limit=limit)

    def resend(self, delivery_id: UUID) -> Delivery:
        """Send it again, under the same webhook-id and with all tries. Raise DeliveryNotFound."""
        with self._database.transaction() as session:
            rows.resend(session, delivery_id)
            delivery = rows.find_delivery(session, delivery_id)
        if delivery is None:
            raise DeliveryNotFound(f"no delivery has the id {delivery_id}")
        return delivery


def _found(endpoint: Endpoint | None) -> Endpoint:
    if endpoint is None:
        raise EndpointNotFound("no webhook endpoint has this id")
    return endpoint
