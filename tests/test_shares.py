"""No process begins with what is soon done while minutes of tests wait in another."""

import pytest

from tests.shares import Place, in_shares

#: As pytest finds them: by folder, and each folder by file.
FOUND = [
    *[Place(f"acceptance/test_{name}.py", fast=False) for name in ("commands", "flood", "upgrade", "worker")],
    Place("chaos/test_campaign.py", fast=False),
    *[Place("console/test_keys.py", fast=False)] * 3,
    *[Place("dfa/test_heads.py", fast=True), Place("dfa/test_small.py", fast=False)],
    *[Place("integration/test_api.py", fast=False)] * 7,
    *[Place("test_cases.py", fast=True)] * 13,
]


def _parts(processes: int) -> list[list[Place]]:
    """What each process gets: equal parts of the list, the last ones one longer."""
    ordered = [FOUND[index] for index in in_shares(FOUND, processes)]
    size, parts = len(FOUND) // processes, list[list[Place]]()
    for number in range(processes):
        larger = number >= processes - len(FOUND) % processes
        parts.append([ordered.pop(0) for _ in range(size + larger)])
    return parts


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_every_test_has_one_place(processes: int) -> None:
    assert sorted(in_shares(FOUND, processes)) == list(range(len(FOUND)))


def test_each_process_begins_with_what_takes_longest() -> None:
    first, second, third = ([place.file for place in part] for part in _parts(3))

    assert first[:4] == ["chaos/test_campaign.py", *["console/test_keys.py"] * 3]
    assert second[:2] == ["acceptance/test_upgrade.py", "acceptance/test_commands.py"]
    assert third[0] == "dfa/test_small.py"


def test_two_processes_begin_with_the_two_longest_tests() -> None:
    assert [part[0].file for part in _parts(2)] == ["chaos/test_campaign.py", "acceptance/test_upgrade.py"]


def test_the_fast_ones_come_last_for_others_to_take() -> None:
    for part in _parts(3):
        assert [place.fast for place in part] == sorted(place.fast for place in part)
        assert part[-1].fast
