"""Faithfulness on models whose worth is known: one that looks at the mouth, and one that looks elsewhere."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moderation.analysis import (
    Artifact,
    Box,
    Face,
    FaceAnalysis,
    ForeignMap,
    Label,
    Point,
    Region,
    Technique,
    Verdict,
)
from moderation.dfa.bench.ask import Judged, Told, as_crop, first_faces, judge, placed
from moderation.dfa.bench.description import sentences_table
from moderation.dfa.bench.estimates import Estimate
from moderation.dfa.bench.faithfulness import (
    MOST,
    Asking,
    Trial,
    deletion_table,
    faithfulness_table,
    trial,
    trials,
)
from moderation.dfa.bench.manifest import Item
from moderation.dfa.bench.page import as_html
from moderation.dfa.bench.report import Bench, Curves, as_json
from moderation.dfa.bench.tables import Table
from moderation.dfa.gpt.bundle import BundleSpec
from moderation.dfa.gpt.crops import FaceCrop
from moderation.dfa.gpt.detector import Detector
from moderation.dfa.gpt.effect import around, face_mask, mask_of, most_like
from moderation.dfa.gpt.pixels import in_crop
from moderation.dfa.gpt.policy import Policy
from tests.dfa.conftest import a_picture
from tests.dfa.drawn_faces import a_portrait
from tests.dfa.test_bench_measures import an_item, judged
from tests.dfa.test_effect import an_artifact

SIZE = 112
FACE = Face(
    Box(0, 0, 86, 86), 0.9, (Point(30, 35), Point(56, 35), Point(43, 50), Point(33, 63), Point(53, 63))
)
CROP = FaceCrop(FACE, a_picture(SIZE))
Margins = Callable[[Sequence[FaceCrop]], list[float]]


def looking_at(*regions: Region) -> Margins:
    """A model whose margin is 4, less as much as the pixels of these regions are changed."""
    mask = mask_of(an_artifact(*regions), CROP)
    assert mask is not None
    before = CROP.pixels[mask].astype(float)
    return lambda crops: [4 - np.abs(crop.pixels[mask] - before).mean() / 10 for crop in crops]


def naming(*regions: Region, deepfake: bool = True) -> FaceAnalysis:
    label = Label.DEEPFAKE if deepfake else Label.BONA_FIDE
    return FaceAnalysis(FACE, Verdict(label, score=0.98, margin=4.0), tuple(map(an_artifact, regions)))


def tried(face: FaceAnalysis, ask: Margins, number: int = 0, **item: Any) -> Trial:
    rng = np.random.default_rng(number)
    return trial(an_item(number, **item), CROP, face, Asking(lambda margin: margin / 4, ask), rng)


def cell(table: Table, row: int, column: str) -> float:
    value = table.rows[row][table.columns.index(column)]
    return value.value if isinstance(value, Estimate) else float(str(value))


MOUTH, FOREHEAD = naming(Region.MOUTH), naming(Region.FOREHEAD)


def test_a_model_that_names_what_it_looks_at_is_faithful() -> None:
    found = [tried(MOUTH, looking_at(Region.MOUTH), number) for number in range(2)]

    table = faithfulness_table(found)

    assert cell(table, 0, "supported") == cell(table, 0, "beyond the control") == 1.0
    assert cell(table, 0, "fall") > 1 > abs(cell(table, 0, "fall, control"))
    assert table.rows[0][:4] == ("artifacts that the model lists", 2, 2, 2)


def test_a_model_that_names_another_region_than_it_looks_at_is_not() -> None:
    found = [tried(FOREHEAD, looking_at(Region.MOUTH), number) for number in range(2)]

    table = faithfulness_table(found)

    assert cell(table, 0, "supported") == 0.0
    assert cell(table, 0, "fall") < 0.5


def test_regions_that_are_not_named_say_what_chance_reaches() -> None:
    ask = looking_at(Region.MOUTH)

    well, ill = (faithfulness_table([tried(face, ask, n) for n in range(4)]) for face in (MOUTH, FOREHEAD))

    assert well.rows[3][0] == ill.rows[3][0] == "regions that it does not name"
    assert cell(well, 0, "fall") > 3 * cell(well, 3, "fall")
    assert cell(ill, 0, "fall") < cell(ill, 3, "fall")


def test_the_map_is_measured_by_the_regions_in_which_it_is_highest() -> None:
    corners = (Point(0, 0), Point(1, 0), Point(1, 1), Point(0, 1))
    face = replace(FOREHEAD, foreign=ForeignMap(1, b"\xff", corners, highest=(Region.MOUTH,)))

    found = [tried(face, looking_at(Region.MOUTH)), tried(FOREHEAD, looking_at(Region.MOUTH), 1)]

    table = faithfulness_table(found)
    assert table.rows[4][0] == "regions where the evidence map is highest"
    assert table.rows[4][1:4] == (2, None, 1)
    assert (cell(table, 0, "supported"), cell(table, 4, "supported")) == (0.0, 1.0)


def test_every_face_counts_on_its_own_side() -> None:
    ask = looking_at(Region.MOUTH)

    table = faithfulness_table(
        [tried(MOUTH, ask, 0), tried(FOREHEAD, ask, 1, deepfake=False, technique=None)]
    )

    assert cell(table, 0, "supported") == 0.5
    assert (cell(table, 1, "supported"), cell(table, 2, "supported")) == (1.0, 0.0)


def test_what_has_no_place_is_listed_and_not_measured() -> None:
    found = tried(naming(Region.UNMAPPED), looking_at(Region.MOUTH))

    assert (found.listed, found.named, found.steps) == (1, (), ())
    assert faithfulness_table([found]).rows[0] == (
        "artifacts that the model lists", 1, 1, 0, None, None, None, None, None,
    )  # fmt: skip


def test_a_bona_fide_face_has_nothing_to_be_hidden() -> None:
    found = tried(naming(Region.MOUTH, deepfake=False), looking_at(Region.MOUTH))

    assert (found.named, found.others, found.steps) == ((), (), ())


def test_the_curve_of_a_faithful_list_falls_faster_than_chance_and_further_with_each_region() -> None:
    face = naming(Region.MOUTH, Region.EYES, Region.NOSE)
    found = [tried(face, looking_at(Region.MOUTH, Region.EYES), number) for number in range(4)]

    table = deletion_table(found)

    assert [row[0] for row in table.rows] == [1, 2, 3]
    first, second = (cell(table, row, "fall, named") for row in (0, 1))
    assert second > first > cell(table, 0, "fall, by chance")
    assert cell(table, 0, "faces that fall by more") == 1.0
    assert cell(table, 1, "score, named") < cell(table, 1, "score, by chance") < 1
    assert cell(table, 0, "part of the face") < cell(table, 2, "part of the face") < 0.6


def test_the_page_draws_the_curve() -> None:
    found = [
        tried(naming(Region.MOUTH, Region.EYES), looking_at(Region.MOUTH), number) for number in range(2)
    ]
    bench = Bench(
        {"bundle": "small"},
        (deletion_table(found),),
        Curves({"small": ([0, 1], [0, 1])}, ([0.5, 1.0], [0.1, 0.2])),
    )

    page = as_html(bench)

    section = page[page.index('<section id="deletion">') :]
    assert section.count("<svg") == 1
    assert "by chance" in section[: section.index("</svg>")]
    assert as_json(bench)["tables"]["deletion"][0]["hidden"] == 1


def test_the_curve_of_a_list_that_does_not_matter_falls_no_faster_than_chance() -> None:
    found = [tried(FOREHEAD, looking_at(Region.MOUTH), number) for number in range(4)]

    assert cell(deletion_table(found), 0, "difference") <= 0.05


def test_regions_by_chance_are_as_large_as_the_named_ones_and_apart_from_them() -> None:
    named, whole = mask_of(an_artifact(Region.CHEEKS), CROP), face_mask(CROP)
    small = mask_of(an_artifact(Region.NOSE), CROP)
    assert named is not None
    assert small is not None

    chosen = most_like(small, whole, int(named.sum()), spared=around(named))
    everything = most_like(small, whole, int(whole.sum()), spared=around(named))

    assert chosen is not None
    assert everything is not None
    assert chosen.sum() == named.sum()
    assert not (chosen & named).any()
    assert (chosen & small).sum() == (small & whole & ~around(named)).sum()  # grown, and nothing of it lost
    assert (everything == whole).all()  # without room, what is named too
    assert most_like(small, whole, int(whole.sum()) + 1, spared=named) is None


def test_the_same_seed_measures_the_same() -> None:
    face, ask = naming(Region.MOUTH, Region.EYES), looking_at(Region.MOUTH)

    assert tried(face, ask, 3) == tried(face, ask, 3)
    assert tried(face, ask, 3).steps != tried(face, ask, 4).steps


def test_nothing_measured_is_a_table_of_nothing() -> None:
    assert [row[3] for row in faithfulness_table([]).rows] == [0, 0, 0, 0, 0]
    assert deletion_table([]).rows == []


# --- on a bundle


def drawn_item(tmp_path: Any, number: int) -> Item:
    file = tmp_path / f"{number}.png"
    Image.fromarray(a_portrait(number, size=SIZE).pixels).save(file)
    return an_item(number, file=file)


def test_landmarks_are_found_in_a_crop_and_its_pixels_stay(tmp_path: Any) -> None:
    item = drawn_item(tmp_path, 1)
    crop = as_crop(item.file.read_bytes(), SIZE)
    assert crop.face.landmarks is None

    found = placed(crop)

    assert found.face.landmarks is not None
    assert (found.pixels == crop.pixels).all()
    # In the crop they lie where they lie in the picture, for it is the picture.
    there = np.array(in_crop(found.face, SIZE, found.face.landmarks))
    assert there == pytest.approx(np.array(found.face.landmarks))


def test_a_crop_that_lies_on_its_side_has_no_landmarks() -> None:
    pixels = np.rot90(a_portrait(1, size=SIZE).pixels).copy()

    found = placed(FaceCrop(Face(Box(0, 0, SIZE, SIZE), 1.0), pixels))

    assert found.face.landmarks is None


def test_no_more_faces_are_measured_than_are_asked_for(tiny: BundleSpec, tmp_path: Any) -> None:
    policy = Policy(minimum_mass=0.0, early_exit=0.0, threshold=0.0, band=0.0, max_new_tokens=4)
    detector = Detector.load(tiny.folder, device="cpu", policy=policy)
    items = [drawn_item(tmp_path, number) for number in range(4)]
    listed = [
        Judged(item, Verdict(Label.DEEPFAKE, score=0.9, margin=2.0), rationale=(an_artifact(Region.MOUTH),))
        for item in items
    ]
    seen: list[int] = []

    found = trials(detector, listed, 2, progress=seen.append)

    assert len(found) == 2
    assert seen == [1, 2]
    assert trials(detector, judge(detector, items), 4) == []  # a random model lists nothing that can be read
    assert len(first_faces(detector, items)) == 4
    detector.close()


# --- sentences


def told(number: int, *texts: str) -> Told:
    artifacts = tuple(Artifact("Nose", text, (Region.NOSE,)) for text in texts)
    return Told(an_item(number), dict.fromkeys(Technique, 0.0), Technique.FS, frozenset(), "", artifacts)


def test_sentences_are_counted_once_and_over_the_same_faces() -> None:
    given = [told(0, "It is soft.", "It is bent."), told(1, "It  is soft."), told(2)]
    served = [
        judged(0.9, an_item(0), rationale=given[0].artifacts),
        judged(0.1, an_item(1)),
        judged(0.1, an_item(2)),
    ]
    bona_fide = judged(0.9, an_item(9, deepfake=False), rationale=given[1].artifacts)

    table = sentences_table([*served, bona_fide], given)

    assert table.rows[0][:5] == ("as served", 3, 1, 2, 2)
    assert table.rows[1][:5] == ("verdict given", 3, 2, 3, 2)
    assert cell(table, 1, "share of the commonest") == pytest.approx(2 / 3)


def test_sentences_are_counted_over_a_hundred_faces_at_the_most() -> None:
    table = sentences_table([], [told(number, f"It is off by {number}.") for number in range(130)])

    assert table.rows[1][:5] == ("verdict given", 100, 100, 100, 100)
    assert sentences_table([], []).rows[1][1:] == (0, 0, 0, 0, None)


def test_most_regions_of_a_face_are_never_hidden_at_once() -> None:
    face = naming(Region.MOUTH, Region.EYES, Region.NOSE, Region.FOREHEAD, Region.CHEEKS)

    found = tried(face, looking_at(Region.MOUTH))

    assert len(found.named) == MOST
    assert max(step.count for step in found.steps) <= MOST
