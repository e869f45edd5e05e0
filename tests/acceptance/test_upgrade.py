"""The release before is upgraded to this one while it works: `make upgrade-test` in small."""

import pytest

from moderation.local import open_folder
from tests.upgrade.upgrade import NoHistory, upgrade


@pytest.mark.timeout(1200)
def test_a_running_system_is_upgraded_and_nothing_is_lost_twice_or_stopped(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    try:
        report = upgrade(open_folder(tmp_path_factory.mktemp("upgrade")), cases=12, every=1.0)
    except NoHistory as error:
        pytest.skip(str(error))

    assert (report.lost, report.duplicated, report.chains_broken) == (0, 0, 0)
    assert (report.stopped, report.refused) == ([], {})
    assert report.decided == 2
    assert len(report.ready) == 6
    assert report.accepted >= sum(report.ready.values())
