import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from worker.solitude import Solitude


def test_who_is_alone_is_alone() -> None:
    solitude = Solitude()
    inside: set[int] = set()
    seen: list[tuple[bool, int]] = []
    lock = threading.Lock()

    def visit(number: int) -> None:
        alone = number % 7 == 0
        with solitude.alone() if alone else solitude.together():
            with lock:
                inside.add(number)
                seen.append((alone, len(inside)))
            threading.Event().wait(0.001)
            with lock:
                inside.remove(number)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(visit, range(200)))

    assert all(count == 1 for alone, count in seen if alone)
    assert max(count for alone, count in seen if not alone) > 1


def test_who_wants_to_be_alone_is_not_starved_by_those_who_come_later() -> None:
    solitude = Solitude()
    order: list[str] = []
    first_is_in, let_go = threading.Event(), threading.Event()

    def first() -> None:
        with solitude.together():
            first_is_in.set()
            let_go.wait(5)

    def lonely() -> None:
        with solitude.alone():
            order.append("alone")

    def late() -> None:
        with solitude.together():
            order.append("late")

    threads = [threading.Thread(target=first)]
    threads[0].start()
    first_is_in.wait(5)
    for target in (lonely, late):
        threads.append(threading.Thread(target=target))
        threads[-1].start()
        while target is lonely and not solitude._waiting_to_be_alone:
            threading.Event().wait(0.001)
    let_go.set()
    for thread in threads:
        thread.join(5)

    assert order == ["alone", "late"]


def test_a_fault_inside_lets_the_next_one_in() -> None:
    solitude = Solitude()

    for way in (solitude.alone, solitude.together):
        with pytest.raises(ZeroDivisionError), way():
            _ = 1 / 0

    with solitude.alone():
        pass
