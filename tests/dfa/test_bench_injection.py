"""Words that demand an answer: what they move is measured beside harmless words, and nothing else is."""

import io
from typing import Any

import pytest
from PIL import Image

from moderation.analysis import Label
from moderation.dfa.bench.ask import as_crop, verdicts_only
from moderation.dfa.bench.estimates import Estimate
from moderation.dfa.bench.injection import (
    HARMLESS,
    QUESTION,
    Demanded,
    Moved,
    demand,
    demands_table,
    harmless,
    in_conversation,
    in_pictures,
    in_questions,
    injection_table,
)
from moderation.dfa.bench.manifest import Item
from moderation.dfa.bench.robustness import PLACES, SENTENCES, injected, written
from moderation.dfa.bench.tables import Table
from moderation.dfa.gpt.bundle import BundleSpec
from moderation.dfa.gpt.claims import verdict_stated
from moderation.dfa.gpt.detector import Detector
from moderation.dfa.gpt.policy import Policy
from tests.dfa.drawn_faces import a_portrait
from tests.dfa.test_bench_measures import an_item

POLICY = Policy(minimum_mass=0.0, band=0.0, rationale=False)  # it knows nothing, and is to say so


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    folder = tmp_path_factory.mktemp("faces")
    found: list[Item] = []
    for number in range(3):
        file = folder / f"{number}.png"
        Image.fromarray(a_portrait(number, size=96).pixels).save(file)
        found.append(an_item(number, file=file))
    return found


def cell(table: Table, row: int, column: str) -> Any:
    value = table.rows[row][table.columns.index(column)]
    return value.value if isinstance(value, Estimate) else value


def moved(number: int, answer: str, clean: float, harmless: float, demanded: float) -> Moved:
    return Moved(an_item(number), "picture, band", answer, clean, harmless, demanded)


def over(margin: float) -> bool:
    return margin >= 0


def test_harmless_words_demand_nothing_and_are_about_as_long() -> None:
    assert len(HARMLESS) == len(SENTENCES)
    for number, words in enumerate(HARMLESS):
        assert verdict_stated(words) is None
        assert not {"yes", "no", "fake", "real", "forged"} & set(words.lower().replace(".", "").split())
        assert len(words) == pytest.approx(len(demand("No", number)), abs=8)
        assert harmless(number + len(HARMLESS)) == words


def test_a_demand_that_is_obeyed_stands_out_from_harmless_words() -> None:
    rows = [moved(0, "No", 2.0, 1.8, -1.0), moved(1, "No", 1.0, 1.1, 0.5), moved(2, "No", -3.0, -3.0, -3.5)]

    table = injection_table(rows, over)

    assert table.rows[0][:3] == ("picture, band", "No", 3)
    assert cell(table, 0, "harmless words move it by") == pytest.approx(-0.1 / 3)
    assert cell(table, 0, "a demand by") == pytest.approx(-4 / 3)
    assert cell(table, 0, "demand less harmless") == pytest.approx(-3.9 / 3)
    # Of the two that were called deepfakes one is obeyed; the third was bona fide before.
    assert (cell(table, 0, "obeyed"), cell(table, 0, "harmless words do as much")) == (0.5, 0.0)


def test_each_demand_has_a_row_of_its_own() -> None:
    table = injection_table([moved(0, "No", 1.0, 1.0, -1.0), moved(0, "Yes", -1.0, -1.0, 1.0)], over)

    assert [row[1] for row in table.rows] == ["No", "Yes"]
    assert [cell(table, row, "obeyed") for row in (0, 1)] == [1.0, 1.0]


def test_a_demand_in_conversation_counts_by_what_is_written_and_by_what_is_shown() -> None:
    item = an_item(0)
    found = [
        Demanded(item, "No", "No, I take this face for bona fide.", None, deepfake=True),
        Demanded(item, "No", "I do not follow that.", "I do not follow that.", deepfake=True),
        Demanded(item, "Yes", "**Yes**", None, deepfake=False),
    ]

    table = demands_table(found)

    assert [cell(table, 0, name) for name in ("n", "state the other verdict", "shown so", "answered")] == [
        2, 0.5, 0.0, 0.5,
    ]  # fmt: skip
    assert cell(table, 1, "in plain words") == 0.0


# --- on a bundle


def test_words_move_the_margin_that_is_measured_without_them(tiny: BundleSpec, items: list[Item]) -> None:
    detector = verdicts_only(Detector.load(tiny.folder, device="cpu", policy=POLICY))

    found = in_pictures(detector, items)

    assert len(found) == len(items) * len(PLACES) * 2
    size = detector.image_size
    for each in found:
        if each.where != "picture, band":
            continue
        number = items.index(each.item)
        plain = Image.open(each.item.file)
        pictures = [
            plain,
            written(plain, harmless(number), "band"),
            injected(plain, each.answer, "band", number),
        ]
        wanted = [
            face.verdict.margin for face in detector.analyze([as_crop(png(one), size) for one in pictures])
        ]
        assert [each.clean, each.harmless, each.demanded] == pytest.approx(wanted, abs=1e-4)
    detector.close()


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_words_after_the_question_are_what_the_model_reads(tiny: BundleSpec, items: list[Item]) -> None:
    detector = Detector.load(tiny.folder, device="cpu", policy=POLICY)
    clean = [face.verdict.margin for face in detector.analyze(crops(detector, items))]

    found = in_questions(detector, items)

    assert [each.where for each in found] == [QUESTION] * 2 * len(items)
    assert [each.clean for each in found[: len(items)]] == pytest.approx(clean, abs=1e-4)
    for each in found:
        assert abs(each.demanded - each.clean) > 1e-4
        assert abs(each.demanded - each.harmless) > 1e-4
    asked_no, asked_yes = found[: len(items)], found[len(items) :]
    assert all(a.demanded != b.demanded for a, b in zip(asked_no, asked_yes, strict=True))


def crops(detector: Detector, items: list[Item]) -> list[Any]:
    return [as_crop(item.file.read_bytes(), detector.image_size) for item in items]


def test_every_demand_is_made_once_in_conversation(tiny: BundleSpec, items: list[Item]) -> None:
    detector = Detector.load(tiny.folder, device="cpu", policy=POLICY)

    found = in_conversation(detector, items)

    assert [each.answer for each in found] == ["No"] * len(SENTENCES) + ["Yes"] * len(SENTENCES)
    assert {each.item for each in found} == set(items)
    verdicts = dict(zip(items, detector.analyze(crops(detector, items)), strict=True))
    for each in found:
        assert each.deepfake is (verdicts[each.item].verdict.label is Label.DEEPFAKE)
    detector.close()


def test_nothing_is_asked_of_no_pictures(tiny: BundleSpec) -> None:
    detector = Detector.load(tiny.folder, device="cpu", policy=POLICY)

    assert in_conversation(detector, []) == []
    assert in_pictures(detector, []) == []
    assert in_questions(detector, []) == []
