"""How the review goes, for leads: plots, each with its table."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from moderation.intervals import Named
from moderation.reports.insight import USUAL_DAYS
from moderation.web.console import charts
from moderation.web.console.access import VisitorDep
from moderation.web.console.pages import PageRoute, page
from moderation.web.services import ServicesDep

router = APIRouter(route_class=PageRoute, include_in_schema=False)

#: Periods to choose from, in days.
PERIODS = (1, 7, 30, 90)


@router.get("/insight")
def show_insight(
    services: ServicesDep, visitor: VisitorDep, days: Annotated[int, Query(ge=1, le=366)] = USUAL_DAYS
) -> Response:
    seen = services.insights.read(visitor.person, now=datetime.now(UTC), days=days)
    reliance = (
        Named("Changed to the verdict, when the first judgement differed", seen.reliance.switched),
        Named("Kept, when the first judgement was the verdict", seen.reliance.kept),
        Named("Followed, when the verdict was wrong", seen.reliance.followed_when_wrong),
        Named("Followed, when the verdict was right", seen.reliance.followed_when_right),
    )
    agreement = (Named("all verdicts", seen.agreement), *seen.agreement_by_technique)
    people = (
        Named("Second reviews with the same outcome", seen.second_agreement),
        Named("Appeals with another outcome", seen.overturned),
        Named("The same technique, of those that name one", seen.same_technique),
    )
    return page(
        services,
        visitor,
        "insight.html",
        section="/insight",
        seen=seen,
        days=days,
        periods=PERIODS,
        volume=charts.volume(seen.days, seen.since.date(), seen.until.date()),
        panels=(
            (
                "Agreement with the model, by verdict",
                "Of decisions on a verdict, those that say the same.",
                agreement,
            ),
            (
                "Agreement with the model, by bundle",
                "The same, by what gave the verdict.",
                seen.agreement_by_bundle,
            ),
            ("Between people", "Second reviews, appeals, techniques.", people),
            ("Reliance", "From cases that were judged before the verdict was shown.", reliance),
            (
                "Artifacts that people see too, by region",
                "Of those they agreed or disagreed to.",
                seen.artifacts_by_region,
            ),
            ("Why the model cannot tell", "Of all analyses.", seen.abstained_by_reason),
            ("Why there is no verdict", "Of all cases that became ready.", seen.refused_by_reason),
        ),
        whiskers=charts.whiskers,
        decided=charts.drift(seen.bands, blind=False),
        blind=charts.drift(seen.bands, blind=True),
    )
