"""`bonafide analyze` and `bonafide chat` on real files, with the smallest bundle."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from moderation.analysis import Effect, Label, Verdict
from moderation.cli.main import app
from moderation.cli.model import effect_words
from moderation.dfa.gpt.bundle import BundleSpec
from moderation.dfa.gpt.detector import fingerprint
from moderation.dfa.gpt.policy import Policy
from moderation.errors import BundleMismatch
from moderation.settings import settings

SAMPLES = Path(__file__).parents[2] / "moderation" / "samples"


@pytest.fixture(scope="module")
def portrait() -> Path:
    return sorted(SAMPLES.rglob("*.jpg"))[0]


@pytest.fixture
def junk(tmp_path: Path) -> Path:
    file = tmp_path / "junk.jpg"
    file.write_bytes(b"no picture")
    return file


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.stdout


def test_analyze_prints_one_object_a_line_in_order(tiny: BundleSpec, portrait: Path, junk: Path) -> None:
    code, out = run("analyze", portrait, junk, portrait, "--json", "--bundle", tiny.folder, "--device", "cpu")

    lines = out.splitlines()
    rows = [json.loads(line) for line in lines]
    # Rows of one batch may differ in the last digits, by the kernels of the processor.
    nearly = json.loads(lines[2], parse_float=lambda digits: pytest.approx(float(digits), abs=1e-4))
    assert code == 1  # one of them was refused
    assert [row["file"] for row in rows] == [str(portrait), str(junk), str(portrait)]
    assert rows[0].keys() == rows[1].keys()
    assert {row["state"] for row in rows} == {"ready"}
    assert (rows[0] | {"seconds": 0, "timings": {}, "file": ""}) == (
        nearly | {"seconds": 0, "timings": {}, "file": ""}
    )


def test_a_refused_file_is_an_answer_and_is_counted_at_the_end(tiny: BundleSpec, junk: Path) -> None:
    result = CliRunner().invoke(app, ["analyze", str(junk), "--json", "--bundle", str(tiny.folder)])

    row = json.loads(result.stdout)
    assert result.exit_code == 1
    assert "1 of 1 files could not be analysed" in result.stderr
    assert row["refusal"] == "not_an_image"
    assert row["refusal_message"]
    assert row["verdict"] is None


def test_an_analysed_file_has_a_verdict_and_faces(tiny: BundleSpec, portrait: Path) -> None:
    _, out = run("analyze", portrait, "--json", "--bundle", tiny.folder)

    row = json.loads(out)
    assert row["refusal"] is None
    assert row["verdict"]["label"] == "undetermined"
    assert row["verdict"]["abstain"] == "low_answer_mass"
    assert {"box", "confidence", "verdict", "rationale"} <= row["faces"][0].keys()
    assert {"decode", "faces", "crop", "engine"} == row["timings"].keys()
    assert len(row["fingerprint"]) == 64


def test_analyze_asks_with_the_policy_of_the_workers(
    tiny: BundleSpec, portrait: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BONAFIDE_THRESHOLD", "0.7")
    settings.cache_clear()

    _, out = run("analyze", portrait, "--json", "--bundle", tiny.folder)

    settings.cache_clear()
    assert json.loads(out)["fingerprint"] == fingerprint(tiny, Policy(threshold=0.7))


def test_analyze_takes_the_bundle_of_the_workers_unless_told_otherwise(
    tiny: BundleSpec, portrait: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "stack.env"
    file.write_text(f"BONAFIDE_BUNDLE={tiny.folder}\nBONAFIDE_DEVICE=cpu\n")
    monkeypatch.setenv("BONAFIDE_ENV_FILE", str(file))
    monkeypatch.delenv("BONAFIDE_BUNDLE", raising=False)
    settings.cache_clear()

    _, named = run("analyze", portrait, "--json", "--bundle", tiny.folder, "--device", "cpu")
    code, out = run("analyze", portrait, "--json")
    settings.cache_clear()

    assert code == 0
    assert json.loads(out)["fingerprint"] == json.loads(named)["fingerprint"]


def test_analyze_refuses_what_the_workers_refuse(
    tiny: BundleSpec, portrait: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BONAFIDE_IMAGE_MAX_PIXELS", "4096")
    settings.cache_clear()

    _, out = run("analyze", portrait, "--json", "--bundle", tiny.folder)

    settings.cache_clear()
    assert json.loads(out)["refusal"] == "too_many_pixels"


def test_people_get_a_table(tiny: BundleSpec, portrait: Path, junk: Path) -> None:
    code, out = run("analyze", portrait, junk, "--bundle", tiny.folder)

    assert code == 1
    assert "not a decision" in out
    assert "undetermined" in out


FORGED = SAMPLES / "forged-swap-2.jpg"  # mini calls it a deepfake, and names regions


def test_effects_are_measured_where_they_are_asked_for() -> None:
    _, without = run("analyze", FORGED, "--json", "--bundle", "mini")
    _, out = run("analyze", FORGED, "--json", "--bundle", "mini", "--effects")

    (plain,), (measured,) = (json.loads(each)["faces"] for each in (without, out))
    assert measured["rationale"]
    assert [artifact["effect"] for artifact in plain["rationale"]] == [None] * len(plain["rationale"])
    for artifact in measured["rationale"]:
        assert artifact["effect"]["score_without"] != measured["verdict"]["score"]
    assert json.loads(out)["timings"]["effect"] > 0
    assert "effect" not in json.loads(without)["timings"]


def test_a_score_is_shown_with_what_it_was_calibrated_on() -> None:
    _, told = run("analyze", FORGED, "--json", "--bundle", "mini")
    _, read = run("analyze", FORGED, "--bundle", "mini")

    row = json.loads(told)
    for verdict in (row["verdict"], row["faces"][0]["verdict"]):
        assert verdict["calibrated_on"] == "labelled pictures that are not named"
        assert verdict["is_probability"] is False  # a file has no source
    assert "calibrated on labelled pictures that are not named" in " ".join(read.split())


def test_people_read_what_the_score_does_without_a_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BONAFIDE_EFFECT_ARTIFACTS", "1")
    settings.cache_clear()

    _, out = run("analyze", FORGED, "--bundle", "mini", "--effects")
    _, plain = run("analyze", FORGED, "--bundle", "mini")
    settings.cache_clear()

    assert " ".join(out.split()).count("without this region") == 1
    assert "without this region" not in " ".join(plain.split())


@pytest.mark.parametrize("supported", [True, False])
def test_what_the_score_does_not_depend_on_is_called_so(supported: bool) -> None:
    effect = Effect(0.41, 2.0 if supported else 0.1, 0.95, 0.3)

    words = effect_words(Verdict(Label.DEEPFAKE, score=0.97), effect)

    assert words.startswith("score 0.970, without this region 0.410, without a control region 0.950")
    assert words.endswith("not supported by the score") is not supported


def test_a_folder_is_looked_through_for_pictures(tiny: BundleSpec, portrait: Path, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    for name in ("b.JPG", "inner/a.jpeg"):
        (tmp_path / name).write_bytes(portrait.read_bytes())
    (tmp_path / "notes.txt").write_text("no picture")

    code, out = run("analyze", tmp_path, "--json", "--bundle", tiny.folder)

    assert code == 0
    names = [json.loads(line)["file"] for line in out.splitlines()]
    assert names == [str(tmp_path / "b.JPG"), str(tmp_path / "inner/a.jpeg")]


def test_an_empty_folder_gets_a_sentence(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["analyze", str(tmp_path)])

    assert (result.exit_code, result.stdout) == (1, "")
    assert f"there is no picture in {tmp_path}" in result.stderr


def test_a_file_that_is_not_there_is_a_usage_error(tiny: BundleSpec) -> None:
    code, _ = run("analyze", "nowhere.jpg", "--bundle", tiny.folder)

    assert code == 2


def test_a_bundle_that_is_not_there_rises_to_the_commands_one_handler(junk: Path) -> None:
    result = CliRunner().invoke(app, ["analyze", str(junk), "--bundle", "nowhere"])

    assert isinstance(result.exception, BundleMismatch)


def test_chat_answers_each_question(tiny: BundleSpec, portrait: Path) -> None:
    code, out = run("chat", portrait, "-q", "Is the mouth odd?", "-q", "Why?", "--bundle", tiny.folder)

    assert code == 0
    assert len(out.splitlines()) >= 2


def test_chat_refuses_an_empty_question_and_goes_on(tiny: BundleSpec, portrait: Path) -> None:
    code, out = run("chat", portrait, "-q", " ", "-q", "Why?", "--bundle", tiny.folder)

    assert code == 0
    assert "1 to 500 characters" in out


def test_chat_prints_one_object_for_each_question(tiny: BundleSpec, portrait: Path) -> None:
    asked = ["Is the mouth odd?", " ", "Why?"]
    words = [word for question in asked for word in ("-q", question)]

    code, out = run("chat", portrait, *words, "--json", "--bundle", tiny.folder)

    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["question"] for row in rows] == asked
    for row in rows:
        assert set(row) == {"question", "answer", "answered", "face", "seconds"}
        assert row["answered"] is (row["answer"] is not None)
        assert (row["face"], row["seconds"] >= 0) == (1, True)
    assert rows[1]["answered"] is False


def test_chat_reads_questions_from_its_input(tiny: BundleSpec, portrait: Path) -> None:
    words = ["chat", str(portrait), "--json", "--bundle", str(tiny.folder)]

    result = CliRunner().invoke(app, words, input="Is it odd?\nWhy?\n\nnever asked\n")

    assert [json.loads(line)["question"] for line in result.stdout.splitlines()] == ["Is it odd?", "Why?"]


def test_chat_is_about_the_face_that_is_named(tiny: BundleSpec, portrait: Path, tmp_path: Path) -> None:
    sides = [Image.open(SAMPLES / name).resize((400, 500)) for name in ("portrait-1.jpg", "portrait-3.jpg")]
    both = Image.new("RGB", (800, 500))
    for left, side in zip((0, 400), sides, strict=True):
        both.paste(side, (left, 0))
    group = tmp_path / "group.png"
    both.save(group)

    code, out = run("chat", group, "-q", "Why?", "--json", "--face", "2", "--bundle", tiny.folder)
    too_high, _ = run("chat", portrait, "-q", "Why?", "--face", "99", "--bundle", tiny.folder)

    assert (code, json.loads(out)["face"]) == (0, 2)
    assert too_high == 2


def test_chat_says_on_standard_error_why_there_is_nothing_to_print(tiny: BundleSpec, junk: Path) -> None:
    result = CliRunner().invoke(
        app, ["chat", str(junk), "-q", "Why?", "--json", "--bundle", str(tiny.folder)]
    )

    assert (result.exit_code, result.stdout) == (1, "")
    assert junk.name in result.stderr.replace("\n", "")


def test_chat_needs_a_face_and_a_picture(tiny: BundleSpec, junk: Path) -> None:
    code, out = run("chat", junk, "-q", "Why?", "--bundle", tiny.folder)

    assert code == 1
    assert str(junk.name) in out.replace("\n", "")
