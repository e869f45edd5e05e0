"""More DFDC crops from a checkout laid out as the public repository is."""

import csv
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from moderation.dfa.instruct.dfdc import gather_dfdc
from moderation.dfa.instruct.pool import build_pool, listed, open_pool, pool_of
from moderation.errors import SetupProblem


def checkout_of(folder: Path, originals: int) -> Path:
    """`originals` bona fide crops, two forgeries of each, and one whose original is not there."""
    (folder / "faces_224").mkdir(parents=True)
    rows = [("orphan.mp4", "10", "10", "FAKE", "gone.mp4")]
    for index in range(originals):
        rows.append((f"real{index}.mp4", "90", "91", "REAL", ""))
        rows += [(f"fake{index}{n}.mp4", "90", "91", "FAKE", f"real{index}.mp4") for n in range(2)]
    for number, (name, *_) in enumerate(rows):
        colour = (number * 5 % 256, number * 11 % 256, number * 3 % 256)
        Image.new("RGB", (224, 224), colour).save(folder / "faces_224" / f"{Path(name).stem}.jpg")
    with (folder / "metadata.csv").open("w", newline="") as lines:
        csv.writer(lines).writerows(
            [("videoname", "original_width", "original_height", "label", "original"), *rows]
        )
    return folder


def test_pairs_are_whole_and_bounded(tmp_path: Path) -> None:
    checkout = checkout_of(tmp_path / "checkout", 6)
    counts = gather_dfdc(checkout, tmp_path / "out", bona_fide=4, forged_each=1)
    assert counts == {"bona_fide": 4, "forged": 4}
    rows = list(csv.DictReader((tmp_path / "out" / "labels.csv").read_text().splitlines()))
    bona_fide = {Path(row["file"]).name for row in rows if row["label"] == "real"}
    assert {row["paired_real"] for row in rows if row["label"] == "fake"} == bona_fide
    assert all((tmp_path / "out" / row["file"]).is_file() for row in rows)
    assert "orphan" not in str(rows)


def test_the_same_seed_chooses_the_same(tmp_path: Path) -> None:
    checkout = checkout_of(tmp_path / "checkout", 8)
    for name in ("a", "b"):
        gather_dfdc(checkout, tmp_path / name, bona_fide=3, seed=5)
    gather_dfdc(checkout, tmp_path / "c", bona_fide=3, seed=6)
    first, second, other = ((tmp_path / name / "labels.csv").read_text() for name in "abc")
    assert first == second != other


def test_a_folder_that_is_not_the_checkout_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupProblem, match="metadata"):
        gather_dfdc(tmp_path, tmp_path / "out", bona_fide=1)


def test_gathered_crops_become_a_pool(tmp_path: Path) -> None:
    checkout = checkout_of(tmp_path / "checkout", 3)
    data = tmp_path / "data"
    gather_dfdc(checkout, data / "dfdc_faces224", bona_fide=3, forged_each=2)
    for other in ("lfw_faceswap", "ifg_gan_faces", "congress_portraits"):
        (data / other).mkdir()
        (data / other / "labels.csv").write_text("file,label,type\n")
    losses = build_pool(data, tmp_path / "pool", processes=2)
    pool = open_pool(tmp_path / "pool")
    assert sum(losses.pictures.values()) == len(pool.rows) == 9
    assert [row.row for row in pool.rows] == list(range(9))
    forged = [row for row in pool.rows if row.label == "deepfake"]
    assert len({row.group for row in forged}) == 3


def labelled(data: Path, folder: str, labels: list[str]) -> Path:
    """A folder of plain pictures with these labels."""
    (data / folder).mkdir(parents=True, exist_ok=True)
    for number in range(len(labels)):
        Image.new("RGB", (64, 64), (number * 20, len(folder) * 9, 99)).save(data / folder / f"{number}.png")
    rows = "".join(f"{number}.png,{label},\n" for number, label in enumerate(labels))
    (data / folder / "labels.csv").write_text(f"file,label,type\n{rows}")
    return data


def test_labels_are_read_in_the_words_of_all_tables_and_no_other(tmp_path: Path) -> None:
    data = labelled(tmp_path, "mine", ["real", "fake", "bona_fide", "Deepfake"])

    assert [picture.label for picture in listed(data)] == ["bona_fide", "deepfake"] * 2

    labelled(tmp_path, "mine", ["real", "forged"])
    with pytest.raises(
        SetupProblem, match=r"mine/labels.csv, row 3, label: 'forged' is none of deepfake, fake"
    ):
        list(listed(data))

    (data / "mine" / "labels.csv").write_text("file,type,label\n0.png,FS\n")
    with pytest.raises(SetupProblem, match=r"mine/labels.csv, row 2, label: '' is none of"):
        list(listed(data))


def test_a_pool_of_other_pictures_or_labels_is_not_taken(tmp_path: Path) -> None:
    data, folder = labelled(tmp_path / "data", "mine", ["real", "fake"]), tmp_path / "pool"
    built: list[str] = []
    take = partial(pool_of, data, folder, processes=1, say=lambda: built.append("built"))
    assert len(take().rows) == len(take().rows) == 2
    assert built == ["built"]

    labelled(data, "mine", ["real", "real"])
    labelled(data, "new", ["real"])
    with pytest.raises(
        SetupProblem, match=r"before mine, new changed in .*data or in .*sources\.toml: delete it"
    ):
        take()

    (folder / "made_of.json").unlink()  # as in a pool of an older release
    assert len(take().rows) == 2
