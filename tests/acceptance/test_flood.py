"""Three hundred mixed pictures while the worker is killed and the broker forgets everything."""

import pytest

from moderation.local import Stack, open_folder, start_system
from tests.acceptance.flood import QUICK, flood
from tests.conftest import end_at_once


@pytest.mark.timeout(900)
def test_three_hundred_mixed_pictures_all_end_before_a_person(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with Stack(open_folder(tmp_path_factory.mktemp("flood")), durable=False) as stack:
        report = flood(start_system(stack, overrides=QUICK), count=300, faults=True)
        end_at_once(stack)

    assert report.submitted == 300
    assert (report.lost, report.duplicated, report.chains_broken) == (0, 0, 0)
    assert report.wrong == []
    assert report.reused > 0
    assert report.killed == 2
