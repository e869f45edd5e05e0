"""A file of own sources (`--sources`): read beside the shipped one, kept with the pool, refused where it is broken."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from moderation.analysis import Technique
from moderation.cli.dfa import app
from moderation.dfa.gpt.prompts import load_prompts
from moderation.dfa.instruct.builder import build
from moderation.dfa.instruct.examples import Examples
from moderation.dfa.instruct.pool import Pool, pool_of
from moderation.dfa.instruct.sources import SHIPPED, Table, read_table
from moderation.dfa.instruct.stored import twos_in
from moderation.dfa.train.report import Judged, detection
from moderation.dfa.train.small import SmallPlan, check_strangers
from moderation.errors import SetupProblem
from tests.dfa.drawn_faces import a_pool

MINE = """
[sources.mine]
terms = "ours; not to be shared"

[[twos]]
name = "mine"
share = 0.2
forged = "mine"
beside = ["mine"]
"""
LAB = '\n[[twos]]\nname = "mine_lab"\nshare = 0.1\nlab = { mine = 1.0 }\n'
SAMPLES = Path(__file__).parents[2] / "moderation" / "samples"

runner = CliRunner()


def a_file(folder: Path, text: str = MINE) -> Path:
    file = folder / "own.toml"
    file.write_text(text, encoding="utf-8")
    return file


def a_folder(data: Path) -> Path:
    """`mine`: three shipped portraits, and each of them mirrored as its forgery."""
    (data / "mine").mkdir(parents=True)
    rows = ["file,label,type,group"]
    for number in range(1, 4):
        picture = Image.open(SAMPLES / f"portrait-{number}.jpg").resize((240, 300))
        picture.save(data / "mine" / f"{number}.jpg")
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(data / "mine" / f"forged-{number}.jpg")
        group = f"person-{number}"
        rows += [f"{number}.jpg,real,,{group}", f"forged-{number}.jpg,fake,FS,{group}"]
    (data / "mine" / "labels.csv").write_text("\n".join(rows))
    return data


def mine(pool: Pool, table: Table) -> Pool:
    """The same faces as a folder of one's own."""
    rows = tuple(replace(row, source="mine", origin="mine") for row in pool.rows)
    return replace(pool, rows=rows, table=table)


def test_own_sources_stand_beside_the_shipped_ones(tmp_path: Path) -> None:
    table = read_table(a_file(tmp_path))

    assert table.source("mine").terms == "ours; not to be shared"
    assert table.source("gsa18f_team") == SHIPPED.source("gsa18f_team")
    assert [kind.name for kind in table.kinds] == [*(kind.name for kind in SHIPPED.kinds), "mine"]
    assert read_table(None) is SHIPPED


def test_a_file_from_an_editor_that_writes_a_mark_first_is_read(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(MINE, encoding="utf-8-sig")

    assert "mine" in read_table(file).sources


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("sources\n", r"own\.toml is not TOML: .*line 1", id="no TOML"),
        pytest.param(
            '[source.mine]\nterms = "ours"', r"own\.toml, source: only the tables", id="no such table"
        ),
        pytest.param('[twos]\nname = "mine"', r"each kind of two as \[\[twos\]\]", id="one bracket too few"),
        pytest.param(
            '[sources]\nmine = "ours"', r"each source as \[sources\.FOLDER\]", id="a source that is a text"
        ),
        pytest.param(
            "[sources.mine]",
            r"own\.toml, \[sources\.mine\], terms: the key is missing; write a text",
            id="no terms",
        ),
        pytest.param(
            '[sources.mine]\nterm = "ours"',
            r"\[sources\.mine\], term: there is no such key; allowed are terms, origins, tight",
            id="a misspelt key",
        ),
        pytest.param(
            "[sources.mine]\nterms = 3",
            r"\[sources\.mine\], terms: 3 is not allowed; write a text",
            id="a number",
        ),
        pytest.param(
            '[sources.mine]\nterms = "ours"\ntight = ["gan"]',
            r"\[sources\.mine\], tight: there is no 'gan'; allowed are names that origins gives: none",
            id="a tight origin without a name",
        ),
        pytest.param(
            '[sources.gsa18f_team]\nterms = "ours"',
            r"\[sources\.gsa18f_team\]: a shipped source has this name; give the folder another",
            id="a shipped source",
        ),
        pytest.param(
            MINE.replace('name = "mine"', 'name = "dfdc"'),
            r"\[\[twos\]\] dfdc, name: another kind of two has it",
            id="a shipped kind of two",
        ),
        pytest.param(
            MINE.replace("0.2", "-1"),
            r"\[\[twos\]\] number 1, share: -1 is not allowed; write a number above 0",
            id="share",
        ),
        pytest.param(
            MINE.replace('["mine"]', '"mine"'), r'beside: "mine" is not allowed; write a list', id="no list"
        ),
        pytest.param(
            MINE.replace('["mine"]', '["mien"]'),
            r"\[\[twos\]\] mine, beside: there is no 'mien'; allowed are sources .*gsa18f_team.*, mine",
            id="a misspelt source",
        ),
        pytest.param(MINE + "paired = true", r"write either beside or paired = true", id="beside and paired"),
        pytest.param(MINE + "lab = { mine = 1.0 }", r"write either forged or lab", id="forged and lab"),
    ],
)
def test_a_broken_file_is_told_by_table_and_key(tmp_path: Path, text: str, problem: str) -> None:
    file = a_file(tmp_path, text)

    with pytest.raises(SetupProblem, match=problem) as refused:
        read_table(file)

    assert str(refused.value).startswith(str(file))


def test_a_file_that_is_not_there_is_named_before_anything_is_made(tmp_path: Path) -> None:
    data, out = a_folder(tmp_path / "data"), tmp_path / "out"

    result = runner.invoke(
        app, ["instruct", "--data", str(data), "--out", str(out), "--sources", str(tmp_path / "gone.toml")]
    )

    assert isinstance(result.exception, SetupProblem)
    assert "gone.toml cannot be read: No such file" in str(result.exception)
    assert not out.exists()


def test_twos_are_drawn_from_own_folders_and_the_lab_forges_their_faces(tmp_path: Path) -> None:
    drawn = Examples(mine(a_pool(), read_table(a_file(tmp_path, MINE + LAB))), "train")
    rng = np.random.default_rng(0)

    origins = {drawn.two(rng)[1].origin.split("/")[0] for _ in range(12)}

    assert {kind.name for kind in drawn.kinds} == {"mine", "mine_lab"}
    assert origins == {"mine", "lab"}
    assert drawn.lab_two(Technique.EFS, rng)[0].origin == "mine"


def test_a_split_without_pictures_is_named_with_what_it_holds(tmp_path: Path) -> None:
    pool = mine(a_pool(), read_table(a_file(tmp_path)))

    with pytest.raises(
        SetupProblem, match=r"of the test split .* has 0 bona fide and 0 forged faces of 12 pictures"
    ):
        Examples(pool, "test")


def test_small_says_before_it_trains_that_its_first_tower_could_not_be_judged(tmp_path: Path) -> None:
    check_strangers(a_pool(), SmallPlan())

    with pytest.raises(
        SetupProblem, match=r"needs bona fide and forged faces of openforensics_crops, .*dfa train sight"
    ):
        check_strangers(mine(a_pool(), read_table(a_file(tmp_path))), SmallPlan())


def test_an_own_forged_origin_is_judged_against_the_faces_beside_it(tmp_path: Path) -> None:
    example = Examples(mine(a_pool(), read_table(a_file(tmp_path))), "train").two(np.random.default_rng(0))
    judged = [Judged(each, float(each.deepfake), 1.0, None, None) for each in example * 2]

    assert detection(judged, read_table(a_file(tmp_path)), lab=0)["mine"].value == 1


def test_the_pool_keeps_own_sources_and_is_refused_once_they_are_others(tmp_path: Path) -> None:
    data, folder = a_folder(tmp_path / "data"), tmp_path / "pool"
    take = partial(pool_of, data, folder, processes=1, say=lambda: None)
    first = take(read_table(a_file(tmp_path)))
    assert first.rows[0].terms == "ours; not to be shared"
    assert twos_in(folder, "train").number(0, 0)[1].origin == "mine"

    take(read_table(a_file(tmp_path, f"# Another comment.\n{MINE}")))
    with pytest.raises(
        SetupProblem, match=r"made before \[\[twos\]\] mine changed in .*own\.toml: delete it"
    ):
        take(read_table(a_file(tmp_path, MINE.replace("0.2", "0.3"))))
    with pytest.raises(SetupProblem, match=r"made before \[sources\.mine\], mine changed in .*own\.toml"):
        take(read_table(a_file(tmp_path, MINE.replace("ours", "yours"))))
    with pytest.raises(SetupProblem, match=r"made with own sources: give their file again with --sources"):
        take()


def test_a_pool_without_own_sources_is_not_taken_for_one_with_them(tmp_path: Path) -> None:
    data, folder = a_folder(tmp_path / "data"), tmp_path / "pool"
    take = partial(pool_of, data, folder, processes=1, say=lambda: None)
    take()
    own = read_table(a_file(tmp_path))

    with pytest.raises(SetupProblem, match=r"made before .*\[sources\.mine\], mine changed"):
        take(own)
    (folder / "made_of.json").unlink()  # as in a pool of an older release
    with pytest.raises(SetupProblem, match=r"made before .*\[sources\.mine\] changed"):
        take(own)


def test_building_does_not_go_on_with_other_own_sources(tmp_path: Path) -> None:
    prompts, out = load_prompts(2), tmp_path / "out"
    build(mine(a_pool(), read_table(a_file(tmp_path))), out, prompts, split="train", twos=1, seed=1)
    changed = read_table(a_file(tmp_path, MINE.replace("0.2", "0.3")))

    with pytest.raises(SetupProblem, match=r"tables of \[\[twos\]\] mine: name another"):
        build(mine(a_pool(), changed), out, prompts, split="train", twos=2, seed=1)


def test_the_command_builds_from_an_own_folder_and_goes_on(tmp_path: Path) -> None:
    data, out = a_folder(tmp_path / "data"), tmp_path / "out"
    own = ["--sources", str(a_file(tmp_path)), "--processes", "1"]

    for pairs in ("1", "2"):
        result = runner.invoke(
            app, ["instruct", "--data", str(data), "--out", str(out), "--pairs", pairs, *own]
        )
        assert result.exit_code == 0, result.output

    entries = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert {(entry["origin"], entry["terms"]) for entry in entries} == {("mine", "ours; not to be shared")}
