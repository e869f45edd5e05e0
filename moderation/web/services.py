"""The services that all routes share. They are made once per process and stored on the app."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from moderation.accounts.accounts import Accounts
from moderation.database.connection import ANSWER_SECONDS, Database
from moderation.dispatch import Publisher
from moderation.intake import Intake
from moderation.questions import Questions
from moderation.reports.insight import Insights
from moderation.review import Review
from moderation.rollouts.standings import Bundles, TrialWatch
from moderation.settings import Settings
from moderation.storage import Storage
from moderation.web.rates import Rates
from moderation.webhooks.endpoints import Webhooks

#: Threads that answer requests. Each may need a connection to Postgres.
WEB_THREADS = 20


@dataclass(frozen=True)
class Services:
    settings: Settings
    database: Database
    storage: Storage
    publisher: Publisher
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
    publisher = Publisher(settings.broker_url.get_secret_value(), at_most=settings.messages_at_most)
    return Services(
        settings,
        database,
        storage,
        publisher,
        Intake(database, storage, publisher),
        Review(database, settings),
        Questions(database, publisher),
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
