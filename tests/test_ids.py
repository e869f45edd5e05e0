"""Ids tell the time they were made."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from moderation.database.ids import first_id_at, new_id


def test_an_id_lies_between_the_moments_around_it() -> None:
    before = datetime.now(UTC)
    made = new_id()
    after = datetime.now(UTC) + timedelta(milliseconds=1)

    assert first_id_at(before) <= made < first_id_at(after)
    assert first_id_at(after) < first_id_at(after + timedelta(milliseconds=1))


def test_a_zone_is_heeded_and_a_time_without_one_is_utc() -> None:
    plain = datetime(2026, 3, 1, 12)  # noqa: DTZ001  the case in question

    assert first_id_at(plain) == first_id_at(plain.replace(tzinfo=UTC))
    assert first_id_at(plain.replace(tzinfo=timezone(timedelta(hours=2)))) < first_id_at(plain)


@pytest.mark.parametrize(
    "moment", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)], ids=["first", "last"]
)
def test_every_time_has_an_id(moment: datetime) -> None:
    assert 0 <= first_id_at(moment, allow=60).int < 2**128
