"""Every fault of the campaign once, four at a time, over a running system. `make chaos N=…` does more."""

import pytest

from tests.chaos.campaign import run
from tests.chaos.faults import FAULTS


@pytest.mark.timeout(900)
def test_every_accepted_case_ends_before_a_person_whatever_breaks(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    report = run(
        tmp_path_factory.mktemp("chaos"),
        cases=200,
        seed=20261123,
        per_round=20,
        at_once=4.0,
        every_fault=True,
    )

    assert report.cases >= 200
    assert set(report.faults) == {fault.name for fault in FAULTS}
    assert (report.lost, report.duplicated, report.wrong) == (0, 0, [])
    assert report.processes_restarted > 0
    assert report.leases_expired > 0
    assert report.store_faults > 0
    assert (
        min(report.meanwhile[what] for what in ("decided", "archived", "erased", "reruns", "questions")) > 0
    )
