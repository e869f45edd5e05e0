"""Evidence is gathered by the child that decoded. Whatever happens to it there, the picture is judged all the same."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from moderation.dfa.gpt.pixels import PixelLimits
from moderation.evidence.options import Options
from moderation.evidence.words import Evidence, FactKind, Status
from worker.decoding import DecodePool


@pytest.fixture
def pool() -> Iterator[DecodePool]:
    opened = DecodePool(PixelLimits(), children=1, seconds=20, evidence=Options())
    yield opened
    opened.close()


def a_file(size: tuple[int, int] = (64, 64), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 80).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


def gathered(pool: DecodePool, data: bytes) -> Evidence:
    evidence = pool.decode(data).evidence
    assert isinstance(evidence, Evidence)
    return evidence


def test_evidence_comes_with_the_pixels(pool: DecodePool) -> None:
    picture = pool.decode(a_file())

    assert isinstance(picture.evidence, Evidence)
    assert picture.pixels.shape == (64, 64, 3)


_TELLS_BOTH_AT_ONCE = """#!{python}
import sys
sys.argv = sys.argv[2:]
from worker import decode_child
held = []
def say(answers, answer):
    held.append(decode_child.json.dumps(answer).encode() + b"\\n")
    if "facts" not in answer:
        answers.write(b"".join(held))
        answers.flush()
        held.clear()
decode_child._say = say
decode_child.main()
"""


def test_evidence_that_comes_in_one_piece_with_the_pictures_line_is_read_as_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tmp_path / "child"
    child.write_text(_TELLS_BOTH_AT_ONCE.format(python=sys.executable))
    child.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(child))
    pool = DecodePool(PixelLimits(), children=1, seconds=20, evidence=Options())

    found = [pool.decode(a_file((side, 64))) for side in (64, 80)]

    pool.close()
    assert [picture.facts.width for picture in found] == [64, 80]
    for picture in found:
        assert isinstance(picture.evidence, Evidence)
        assert picture.evidence.fact(FactKind.GATHERING) is None


def test_without_options_none_is_gathered() -> None:
    pool = DecodePool(PixelLimits(), children=1, seconds=20)

    picture = pool.decode(a_file())

    pool.close()
    assert picture.evidence is None


def test_gathering_that_takes_too_long_costs_the_evidence_and_not_the_picture() -> None:
    pool = DecodePool(PixelLimits(), children=1, seconds=20, evidence=Options(seconds=1e-6))

    # Large: the facts of a small picture are there before anybody waits for them.
    first, second = pool.decode(a_file((1600, 1200))), pool.decode(a_file((1200, 1600)))

    pool.close()
    assert (first.facts.width, second.facts.width) == (1600, 1200)
    for picture in (first, second):
        assert isinstance(picture.evidence, Evidence)
        (fact,) = picture.evidence.facts
        assert (fact.kind, fact.status, fact.data["why"]) == (
            FactKind.GATHERING,
            Status.UNREADABLE,
            "it took too long",
        )
