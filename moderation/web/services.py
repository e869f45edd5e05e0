"""What the routes share, made once per process and found on the app."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from moderation.accounts import Accounts
from moderation.bundles import Bundles, TrialWatch
from moderation.database.connection import ANSWER_SECONDS, Database
from moderation.delivery import Webhooks
from moderation.dispatch import Doorbell
from moderation.insight import Insights
from moderation.intake import Intake
from moderation.questions import Questions
from moderation.rates import Rates
from moderation.review import Review
from moderation.settings import Settings
from moderation.storage import Storage

#: Threads that answer requests, hence connections to Postgres that may be wanted at once.
WEB_THREADS = 20


@dataclass(frozen=True)
class Services:
    settings: Settings
    database: Database
    storage: Storage
    doorbell: Doorbell
    intake: Intake
    review: Review
    questions: Questions
    accounts: Accounts
    webhooks: Webhooks
    insights: Insights
    bundles: Bundles
    trial: TrialWatch
    rates: Rates


def open_services(settings: Settings) -> Services:
    database = Database(
        settings.database_url.get_secret_value(), pool_size=WEB_THREADS, answer_seconds=ANSWER_SECONDS
    )
    storage = Storage(settings, connections=WEB_THREADS)
    doorbell = Doorbell(settings.broker_url.get_secret_value(), bells_at_most=settings.bells_at_most)
    return Services(
        settings,
        database,
        storage,
        doorbell,
        Intake(database, storage, doorbell),
        Review(database, settings),
        Questions(database, doorbell),
        Accounts(database, settings),
        Webhooks(database, settings),
        Insights(database),
        Bundles(database),
        TrialWatch(database),
        Rates(settings.broker_url.get_secret_value(), settings.intake_rate),
    )


def services_of(request: Request) -> Services:
    return request.app.state.services


ServicesDep = Annotated[Services, Depends(services_of)]
