"""The order of the tests: each process begins with what takes longest, and ends with what is soonest done.

pytest-xdist's `worksteal` gives each process one part of the list, and a process that has finished takes tests from
the end of another's part.
"""

from collections.abc import Sequence
from dataclasses import dataclass

#: What takes minutes, in the order in which it begins. Tests of one entry share a running system: they follow upon one
#: another in one process.
LONGEST = (
    ("chaos/", "console/"),
    ("acceptance/test_upgrade.py", "acceptance/"),
    ("dfa/",),
)


@dataclass(frozen=True)
class Place:
    """One test: its file below `tests`, and whether it is one of the fast ones."""

    file: str
    fast: bool


def in_shares(tests: Sequence[Place], processes: int) -> list[int]:
    """The indices of the tests, in as many equal parts as there are processes."""
    heads: list[list[tuple[int, int, int]]] = [[] for _ in range(processes)]
    others: list[int] = []
    for index, test in enumerate(tests):
        found = None if test.fast else _rank(test.file)
        if found is None:
            others.append(index)
        else:
            heads[found[0] % processes].append((*found, index))
    slow = [index for index in others if not tests[index].fast]
    fast = [index for index in others if tests[index].fast]
    ordered: list[int] = []
    for number, size in enumerate(_sizes(len(tests), processes)):
        share = [index for *_, index in sorted(heads[number])]
        taken, slow = _split(slow, -(-len(slow) // (processes - number)))
        share += taken
        filling, fast = _split(fast, max(0, size - len(share)))
        ordered += share + filling
    return ordered + fast


def _rank(file: str) -> tuple[int, int] | None:
    """Which of LONGEST it belongs to, and its turn there. None: to none."""
    for entry, prefixes in enumerate(LONGEST):
        for turn, prefix in enumerate(prefixes):
            if file.startswith(prefix):
                return entry, turn
    return None


def _sizes(total: int, processes: int) -> list[int]:
    """How many tests xdist gives to each process."""
    sizes: list[int] = []
    for left in range(processes, 0, -1):
        sizes.append((total - sum(sizes)) // left)
    return sizes


def _split(indices: list[int], at: int) -> tuple[list[int], list[int]]:
    return indices[:at], indices[at:]
