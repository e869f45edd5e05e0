"""Bytes and pixels to facts. The one place where all evidence of a decoded picture is made.

It runs in the child that decoded the picture, right after the pixels were handed over: whatever a parser does here, the
picture is judged all the same, and the child may be killed. Nothing is fetched and no file is opened.
"""

import time
from collections.abc import Callable, Iterator

from moderation.dfa.gpt.pixels import Picture
from moderation.evidence.options import Options
from moderation.evidence.words import Evidence, Fact, Kind, Status, Strength

#: Looks at one picture for one kind of fact.
Look = Callable[[bytes, Picture], Iterator[Fact]]


class Gatherer:
    """All that looks, loaded while files may still be opened."""

    def __init__(self, options: Options) -> None:
        self._looks: tuple[Look, ...] = ()

    def gather(self, data: bytes, picture: Picture) -> Evidence:
        """All facts about one picture. A parser that trips over the file costs its own facts and no others."""
        began = time.process_time()
        facts = [fact for look in self._looks for fact in _looked(look, data, picture)]
        return Evidence(tuple(facts), time.process_time() - began)


def _looked(look: Look, data: bytes, picture: Picture) -> list[Fact]:
    try:
        return list(look(data, picture))
    except Exception as error:  # noqa: BLE001  parsers raise whatever they trip over
        return [failed(f"{look.__name__}: {type(error).__name__}")]


def failed(why: str) -> Fact:
    return Fact(Kind.GATHERING, Strength.CONTEXT, {"why": why}, status=Status.UNREADABLE)
