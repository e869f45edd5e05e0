import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from worker.quarantine import Quarantine


def test_who_holds_it_exclusively_runs_beside_nobody() -> None:
    quarantine = Quarantine()
    inside: set[int] = set()
    seen: list[tuple[bool, int]] = []
    lock = threading.Lock()

    def visit(number: int) -> None:
        exclusive = number % 7 == 0
        with quarantine.exclusive() if exclusive else quarantine.shared():
            with lock:
                inside.add(number)
                seen.append((exclusive, len(inside)))
            threading.Event().wait(0.001)
            with lock:
                inside.remove(number)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(visit, range(200)))

    assert all(count == 1 for exclusive, count in seen if exclusive)
    assert max(count for exclusive, count in seen if not exclusive) > 1


def test_who_waits_for_exclusive_is_not_starved_by_those_who_come_later() -> None:
    quarantine = Quarantine()
    order: list[str] = []
    first_is_in, let_go = threading.Event(), threading.Event()

    def first() -> None:
        with quarantine.shared():
            first_is_in.set()
            let_go.wait(5)

    def waiting() -> None:
        with quarantine.exclusive():
            order.append("exclusive")

    def late() -> None:
        with quarantine.shared():
            order.append("late")

    threads = [threading.Thread(target=first)]
    threads[0].start()
    first_is_in.wait(5)
    for target in (waiting, late):
        threads.append(threading.Thread(target=target))
        threads[-1].start()
        while target is waiting and not quarantine._exclusive_waiting:
            threading.Event().wait(0.001)
    let_go.set()
    for thread in threads:
        thread.join(5)

    assert order == ["exclusive", "late"]


def test_a_fault_inside_lets_the_next_one_in() -> None:
    quarantine = Quarantine()

    for way in (quarantine.exclusive, quarantine.shared):
        with pytest.raises(ZeroDivisionError), way():
            _ = 1 / 0

    with quarantine.exclusive():
        pass
