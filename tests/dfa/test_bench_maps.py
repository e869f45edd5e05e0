"""The map's AUC on maps whose worth is known, and the masks that it is measured against."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moderation.analysis import Box, Face, Label, Point, Technique, Verdict
from moderation.dfa.bench.ask import Judged
from moderation.dfa.bench.manifest import read_manifest
from moderation.dfa.bench.maps import SIDE, Mapped, map_scores, map_table, mapped
from moderation.dfa.bench.tables import Table
from moderation.dfa.gpt.foreign import foreign_map
from moderation.dfa.gpt.prompts import load_prompts
from moderation.dfa.instruct.builder import build
from moderation.dfa.instruct.examples import SIZE, Example, pooled_examples
from moderation.dfa.instruct.pool import Pool, Pooled
from moderation.dfa.train.report import Judged as Reported
from moderation.dfa.train.report import as_text, report
from moderation.errors import SetupProblem
from tests.dfa.drawn_faces import a_pool
from tests.dfa.test_bench_measures import an_item


def a_mask(left: int, top: int, size: int = SIZE, side: int = 48) -> np.ndarray:
    mask = np.zeros((size, size), np.float32)
    mask[top : top + side, left : left + side] = 1
    return mask


def cells(mask: np.ndarray) -> np.ndarray:
    """What a map that knows everything would say."""
    side = len(mask) // 14
    return mask.reshape(14, side, 14, side).mean(axis=(1, 3))


def faces(*, knowing: bool) -> list[Mapped]:
    masks = [a_mask(16 * (number % 8), 16 * (number // 8) + 32) for number in range(16)]
    found = [
        mapped(str(n), cells(mask) if knowing else 1 - cells(mask), mask) for n, mask in enumerate(masks)
    ]
    return [face for face in found if face is not None]


def test_a_map_that_knows_is_right_and_others_maps_are_not() -> None:
    scores = map_scores(faces(knowing=True))

    assert scores is not None
    assert scores.model.value > 0.98
    assert scores.shuffled.value < 0.9
    assert scores.model.n == 16


def test_a_map_that_is_wrong_is_below_chance_and_one_that_is_flat_at_it() -> None:
    flat = [replace(face, values=np.zeros((SIDE, SIDE), np.float32)) for face in faces(knowing=True)]

    wrong, even = map_scores(faces(knowing=False)), map_scores(flat)

    assert wrong is not None
    assert even is not None
    assert wrong.model.value < 0.02
    assert even.model.value == 0.5


def test_a_blind_map_is_right_where_all_forgeries_lie_in_one_place() -> None:
    alike = [mapped(str(number), np.zeros((14, 14)), a_mask(80, 80)) for number in range(4)]

    scores = map_scores([face for face in alike if face is not None])

    assert scores is not None
    assert (scores.model.value, scores.blind.value) == (0.5, 1.0)


def test_what_is_forged_all_over_or_nowhere_has_no_map_to_be_right() -> None:
    assert mapped("a", np.zeros((14, 14)), np.ones((SIZE, SIZE))) is None
    assert mapped("a", np.zeros((14, 14)), np.zeros((SIZE, SIZE))) is None
    assert map_scores([]) is None


# --- of a run


def seen(tmp_path: Path, number: int, face: Face, mask: np.ndarray, values: np.ndarray) -> Judged:
    file = tmp_path / f"mask-{number}.png"
    Image.fromarray((255 * mask).astype(np.uint8)).save(file)
    item = an_item(number, mask=file, source="lab/FS")
    return Judged(item, Verdict(Label.DEEPFAKE, score=0.9), foreign=foreign_map(face, values))


def column(table: Table, name: str) -> list[object]:
    return [row[table.columns.index(name)] for row in table.rows]


@pytest.mark.parametrize("degrees", [0, 40, 180], ids=lambda d: f"turned by {d}")
def test_a_mask_is_looked_at_in_the_crop_of_its_face(degrees: int, tmp_path: Path) -> None:
    turn, middle = np.exp(1j * np.radians(degrees)), 300 + 200j

    def there(x: float, y: float) -> Point:
        at = middle + turn * complex(x, y)
        return Point(at.real, at.imag)

    first, second, third, fourth, fifth = (
        there(x, y) for x, y in ((-25, -15), (25, -15), (0, 12), (-18, 35), (18, 35))
    )
    face = Face(Box(240, 140, 360, 260), 0.9, (first, second, third, fourth, fifth))
    mask, mouth = np.zeros((400, 600), np.float32), there(0, 35)
    mask[round(mouth.y) - 12 : round(mouth.y) + 12, round(mouth.x) - 12 : round(mouth.x) + 12] = 1
    values = np.zeros((14, 14), np.float32)
    values[9:11, 6:8] = 0.9  # where the mouth of an upright crop is

    table = map_table([seen(tmp_path, 0, face, mask, values)])

    (score,) = {row[2] for row in table.rows if row[0] in {"all", "lab/FS"}}
    assert getattr(score, "value") > 0.95  # noqa: B009  a cell is an estimate here


def test_the_table_tells_sources_and_bona_fide_faces_apart(tmp_path: Path) -> None:
    face = Face(Box(0, 0, SIZE / 1.3, SIZE / 1.3), 0.9)
    half = SIZE * (1 - 1 / 1.3) / 2
    centred = replace(face, box=Box(half, half, SIZE - half, SIZE - half))
    mask = a_mask(64, 64)
    forged = [seen(tmp_path, number, centred, mask, cells(mask)) for number in range(2)]
    clean = Judged(
        an_item(7, deepfake=False),
        Verdict(Label.BONA_FIDE, score=0.1),
        foreign=foreign_map(centred, np.full((14, 14), 0.2, np.float32)),
    )
    unknown = Judged(an_item(8), Verdict(Label.DEEPFAKE, score=0.9), foreign=forged[0].foreign)

    table = map_table([*forged, clean, unknown])

    assert column(table, "faces") == ["all", "lab/FS", "bona fide"]
    assert column(table, "n") == [2, 2, 1]
    within, outside = (column(table, name) for name in ("within", "outside"))
    assert getattr(within[0], "value") > 0.8 > 0.2 > getattr(outside[0], "value")  # noqa: B009
    assert getattr(outside[2], "value") == pytest.approx(0.2)  # noqa: B009


def test_without_maps_there_is_a_table_of_nothing() -> None:
    table = map_table([Judged(an_item(0), Verdict(Label.DEEPFAKE, score=0.9))])

    assert column(table, "n") == [0, 0]


# --- masks


def test_the_builder_writes_masks_of_what_differs_from_the_bona_fide_picture(tmp_path: Path) -> None:
    build(a_pool(), tmp_path, load_prompts(2), split="train", twos=24, seed=4)
    items = read_manifest(tmp_path / "manifest.jsonl")

    pairs = list(zip(items[::2], items[1::2], strict=True))
    masked = [(before, after) for before, after in pairs if after.mask is not None]
    assert len(masked) > 5
    assert all(item.mask is None for item in items if not item.deepfake)
    assert all(after.technique is not Technique.EFS for _, after in masked)
    nearer = 0
    for before, after in masked:
        assert after.mask is not None
        mask = np.asarray(Image.open(after.mask)) > 127
        pictures = [
            np.asarray(Image.open(each.file).convert("RGB")).astype(float) for each in (before, after)
        ]
        difference = np.abs(pictures[0] - pictures[1]).mean(axis=2)
        assert mask.shape == difference.shape
        nearer += bool(difference[mask].mean() > difference[~mask].mean())
    assert nearer > 0.8 * len(masked)


def test_a_csv_may_name_masks_and_one_that_is_not_there_is_missed(tmp_path: Path) -> None:
    for name in ("a.png", "m.png"):
        (tmp_path / name).touch()
    file = tmp_path / "labels.csv"
    file.write_text("file,label,mask\na.png,fake,m.png\na.png,real,\n")

    forged, bona_fide = read_manifest(file)

    assert (forged.mask, bona_fide.mask) == (tmp_path / "m.png", None)
    (tmp_path / "m.png").unlink()
    with pytest.raises(SetupProblem, match=r"m\.png"):
        read_manifest(file)


def an_aligned_pool() -> Pool:
    """A bona fide face and the same face with another mouth, as a source of pixel-aligned pairs has them."""
    drawn = a_pool(2)
    before = drawn.crops[0]
    after = before.copy()
    after[170:210, 90:170] = 255 - after[170:210, 90:170]
    row = replace(drawn.rows[0], source="stargan_celeba", origin="stargan_celeba", label=Label.BONA_FIDE)
    forged: Pooled = replace(
        row,
        row=1,
        file="stargan_celeba/fake/a.png",
        label=Label.DEEPFAKE,
        technique=Technique.FE,
        paired=row.file,
    )
    return Pool(np.stack([before, after]), (row, forged))


def test_pooled_pairs_of_one_face_have_masks_for_evaluation() -> None:
    bona_fide, forged = pooled_examples(an_aligned_pool(), "train", np.random.default_rng(0))

    assert bona_fide.mask is None
    assert forged.mask is not None
    assert 0.01 < (forged.mask > 0.5).mean() < 0.2


def test_the_report_of_training_prints_the_map_beside_its_controls() -> None:
    examples = [
        Example(
            np.zeros((8, 8, 3), np.uint8), True, Technique.FS, a_mask(16 * n, 96), (), f"lab/FS/{n}", str(n)
        )
        for n in range(4)
    ]
    judged = [Reported(each, 1.0, 0.9, Technique.FS, frozenset(), foreign=each.grid) for each in examples]

    result = report(judged, lab=0, threshold=0.0, seconds={})

    assert set(result.maps) == {"all", "lab/FS"}
    assert result.maps["all"].model.value > 0.98
    assert f"| lab/FS | {result.maps['lab/FS'].model} |" in as_text(result)
    assert (
        report([replace(each, foreign=None) for each in judged], lab=0, threshold=0.0, seconds={}).maps == {}
    )
