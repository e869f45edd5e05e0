"""A whole run on a tiny random model: every table is there, files are whole, and a random model is worth nothing."""

import datetime
import gc
import json
import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
from transformers import LlavaForConditionalGeneration
from typer.testing import CliRunner

from moderation.analysis import Region, Technique
from moderation.cli.dfa import app
from moderation.dfa.bench.ask import judge, talk
from moderation.dfa.bench.baselines import BaselinePlan
from moderation.dfa.bench.manifest import of_split, read_manifest, sources_named
from moderation.dfa.bench.page import write_bench
from moderation.dfa.bench.report import Bench, BenchPlan, as_json, run_bench
from moderation.dfa.bench.talk import conversation_table
from moderation.dfa.gpt.bundle import BundleSpec
from moderation.dfa.gpt.detector import Detector
from moderation.dfa.gpt.engine.kv import SlotKV
from moderation.dfa.gpt.policy import Policy
from moderation.dfa.gpt.prompts import load_prompts
from moderation.dfa.instruct.builder import build
from moderation.errors import SetupProblem
from tests.dfa.drawn_faces import a_pool

NOW = datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC)
PLAN = BenchPlan(grid=8, injections=4, quick=True, baselines=BaselinePlan(steps=3))
SAMPLES = Path(__file__).parents[2] / "moderation" / "samples"
MODELS = Path(__file__).parents[2] / "docs" / "models.md"
TABLES = {
    "summary", "detection", "shortcuts", "comparison", "techniques", "confusion_told", "normalisations", "description",
    "description_by_technique", "invented", "gates", "calibration", "reliability", "robustness", "abstention",
    "abstain_codes", "conversation", "faithfulness", "deletion", "sentences", "injection",
    "demands",
}  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of drawn faces, people with an even number tested and the others trained on."""
    out = tmp_path_factory.mktemp("instruct")
    build(a_pool(), out, load_prompts(), split="train", twos=52, seed=4)
    file = out / "manifest.jsonl"
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    for entry in entries:
        entry["split"] = "test" if int(entry["group"].split("/")[-1]) % 2 == 0 else "train"
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return file


@dataclass(frozen=True)
class Watched:
    """A run, and what was in memory at each step of it."""

    bench: Bench
    #: Engines at each step, and models by the step's words.
    engines: list[int]
    models: dict[str, int]


@pytest.fixture(scope="module")
def watched(manifest: Path, tiny: BundleSpec) -> Watched:
    earlier = _alive(SlotKV, LlavaForConditionalGeneration)  # held: no new one gets the address of an old one
    engines: list[int] = []
    models: dict[str, int] = {}

    def progress(words: str) -> None:
        new = [each for each in _alive(SlotKV, LlavaForConditionalGeneration) if not _among(each, earlier)]
        engines.append(sum(isinstance(each, SlotKV) and bool(each.k) for each in new))
        models[words] = sum(isinstance(each, LlavaForConditionalGeneration) for each in new)

    gc.disable()
    try:
        bench = run_bench(
            [manifest], tiny.folder, PLAN, now=NOW, against=tiny.folder, device="cpu", progress=progress
        )
    finally:
        gc.enable()
    return Watched(bench, engines, models)


@pytest.fixture(scope="module")
def bench(watched: Watched) -> Bench:
    return watched.bench


def test_no_two_engines_hold_memory_at_once_and_the_first_model_is_gone_before_the_second_comes(
    watched: Watched,
) -> None:
    assert max(watched.engines) == 1
    assert watched.models["robustness: 1 of 14 cells, clean"] == 1
    assert watched.models["asking the other bundle"] == 0


def _alive(*kinds: type) -> list[object]:
    return [each for each in gc.get_objects() if issubclass(type(each), kinds)]


def _among(this: object, others: list[object]) -> bool:
    return any(this is other for other in others)


def test_every_table_is_there(bench: Bench) -> None:
    assert {table.name for table in bench.tables} == TABLES
    assert all(len(row) == len(table.columns) for table in bench.tables for row in table.rows)


def test_the_run_says_what_it_was(bench: Bench, manifest: Path) -> None:
    items = read_manifest(manifest)

    assert bench.about["manifests"] == [str(manifest)]
    assert bench.about["pictures"] == sum(item.split == "test" for item in items)
    assert bench.about["training_pictures"] == sum(item.split == "train" for item in items)
    assert bench.about["calibrated"] is False
    assert bench.about["date"] == "2026-11-23"


def test_the_same_bundle_beside_itself_differs_in_nothing(bench: Bench) -> None:
    rows = {str(row["detector"]): row for row in as_json(bench)["tables"]["comparison"]}

    assert len(rows) == 4
    itself = next(row for name, row in rows.items() if "(" in name and "tiny" in name)
    assert itself["AUC"] == rows["tiny 0-untrained"]["AUC"]
    assert itself["first less this"] == {**itself["first less this"], "value": 0.0, "low": 0.0, "high": 0.0}
    assert any("small CNN" in name for name in rows)
    assert any("linear probe" in name for name in rows)


def test_a_random_model_is_no_better_than_its_controls(bench: Bench) -> None:
    tables = as_json(bench)["tables"]

    area = tables["detection"][0]["AUC"]
    assert area["low"] < 0.75
    assert area["high"] > 0.25
    given = {row["answers"]: row for row in tables["description"]}
    assert given["verdict given"]["F1"]["value"] <= given["– a blind template"]["F1"]["value"]
    assert given["– a blind template"]["F1"]["value"] > 0


def test_a_random_model_passes_no_gate_that_asks_for_eyes(bench: Bench) -> None:
    gates = {row["gate"]: row for row in as_json(bench)["tables"]["gates"]}

    assert gates["AD region F1 over the blind template's"]["held"] == "no"
    assert len(gates) == 6


def test_files_of_the_builder_give_nothing_away(bench: Bench) -> None:
    whole = as_json(bench)["tables"]["shortcuts"][0]

    assert whole["longer side"]["value"] == 0.5
    assert whole["first luminance table entry"]["value"] == 0.5


def test_the_same_run_gives_the_same_numbers(bench: Bench, manifest: Path, tiny: BundleSpec) -> None:
    again = run_bench(
        [manifest], tiny.folder, BenchPlan(grid=0, injections=0, quick=True), now=NOW, device="cpu"
    )

    assert again.table("robustness") is None
    for name in ("detection", "description", "calibration"):
        assert as_json(again)["tables"][name] == as_json(bench)["tables"][name]


def test_the_report_is_json_markdown_and_one_page(bench: Bench, tmp_path: Path) -> None:
    write_bench(bench, tmp_path)

    data = json.loads((tmp_path / "report.json").read_text())
    assert data["tables"]["detection"][0]["slice"] == "all"
    markdown = (tmp_path / "report.md").read_text()
    assert all(f"## {table.title}" in markdown for table in bench.tables)
    page = (tmp_path / "report.html").read_text()
    assert all(f'<section id="{name}">' in page for name in TABLES)
    assert not re.search(r"\bnan\b", re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL))


def test_the_page_needs_nothing_else_and_its_plots_are_svg(bench: Bench, tmp_path: Path) -> None:
    write_bench(bench, tmp_path)
    page = (tmp_path / "report.html").read_text()

    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 5  # ROC, confusion, reliability, robustness, risk and coverage
    for drawing in drawings:
        assert len(list(ElementTree.fromstring(drawing).iter())) > 30
    assert not re.search(r"<(script|link|img|iframe)\b", page)
    assert not re.search(r"(src|href)=[\"']https?:", page)


def test_the_same_run_writes_the_same_page(bench: Bench, tmp_path: Path) -> None:
    write_bench(bench, tmp_path / "a")
    write_bench(bench, tmp_path / "b")

    assert (tmp_path / "a" / "report.html").read_bytes() == (tmp_path / "b" / "report.html").read_bytes()


# --- manifests ---


def test_whole_pictures_of_a_csv_are_searched_for_faces(tiny: BundleSpec, tmp_path: Path) -> None:
    lines = [
        "file,label,technique,source,group,video,regions",
        f"{SAMPLES / 'portrait-1.jpg'},bona_fide,,congress,a,,none",
        f"{SAMPLES / 'forged-eyes.jpg'},fake,FE,lab,b,clip,eyes;forehead",
        f"{SAMPLES / 'no-face.jpg'},real,,congress,c,,",
        f"{SAMPLES / 'truncated.jpg'},real,,congress,d,,",
    ]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    detector = Detector.load(tiny.folder, device="cpu")

    portrait, eyes, faceless, truncated = judge(detector, read_manifest(tmp_path / "labels.csv"))

    assert portrait.score is not None
    assert portrait.item.regions == frozenset()
    assert eyes.item.deepfake
    assert eyes.item.video == "clip"
    assert eyes.item.regions == {"eyes", "forehead"}
    assert faceless.verdict.abstain == "no_face"
    assert faceless.item.regions is None
    assert truncated.refusal is not None


def test_the_verdict_of_a_whole_picture_is_the_workers(tiny: BundleSpec, tmp_path: Path) -> None:
    file = SAMPLES / "forged-mouth.jpg"
    (tmp_path / "labels.csv").write_text(f"file,label\n{file},fake\n")
    detector = Detector.load(tiny.folder, device="cpu")
    prepared = detector.prepare(file.read_bytes())

    (row,) = judge(detector, read_manifest(tmp_path / "labels.csv"))

    analysis = detector.conclude(prepared, detector.analyze(prepared.crops))
    assert row.score == pytest.approx(analysis.verdict.score)
    assert row.verdict.label is analysis.verdict.label


def test_a_list_that_excel_saved_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "labels.csv").write_text("file,label\r\na.jpg,fake\r\n", encoding="utf-8-sig")

    (item,) = read_manifest(tmp_path / "labels.csv")

    assert (item.file, item.deepfake) == (tmp_path / "a.jpg", True)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param(
            "file,label\na.jpg,maybe\n",
            "labels.csv, row 2, column label: 'maybe' is none of deepfake, fake, bona_fide, real.",
            id="a label that we do not know",
        ),
        pytest.param("file,label\na.jpg\n", "row 2, column label: '' is none of", id="no label"),
        pytest.param("label,file\nfake\n", "row 2, column file: it is empty", id="a short row"),
        pytest.param("file,label\n,fake\n", "row 2, column file: it is empty", id="no picture"),
        pytest.param(
            "filename,label\na.jpg,fake\n",
            "row 1 must name the columns file and label; it names filename, label.",
            id="no column of files",
        ),
        pytest.param("", "row 1 must name the columns file and label; it names nothing.", id="an empty file"),
        pytest.param(
            "file,label,regions\na.jpg,real,none\na.jpg,fake,nose;lips\n",
            "row 3, column regions: 'lips' is none of forehead, hairline, eyes",
            id="no such region",
        ),
        pytest.param(
            "file,label,technique\na.jpg,fake,DeepFakes\n",
            "row 2, column technique: 'DeepFakes' is none of FS, FR, FE, EFS",
            id="no such technique",
        ),
        pytest.param("file,label\nx.jpg,fake\n", "row 2, column file: ", id="a picture that is not there"),
    ],
)
def test_a_broken_table_says_where_and_what_is_allowed(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "labels.csv").write_text(text)

    with pytest.raises(SetupProblem, match=re.escape(problem)):
        read_manifest(tmp_path / "labels.csv")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("file,label\na.jpg,fake\n", "line 1 is not JSON", id="a table of another name"),
        pytest.param('{"image": "a.jpg", "label": "real"}\n', "line 1 lacks `origin`", id="no origin"),
        pytest.param(
            '{"image": "a.jpg", "label": "odd"}\n', "line 1, label: 'odd' is none of", id="no such label"
        ),
    ],
)
def test_a_broken_manifest_says_where(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_text(text)

    with pytest.raises(SetupProblem, match=problem):
        read_manifest(tmp_path / "manifest.jsonl")


def test_a_table_that_is_no_utf8_says_how_to_save_it(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes("file,label\nä.jpg,fake\n".encode("latin-1"))

    with pytest.raises(SetupProblem, match="CSV UTF-8"):
        read_manifest(tmp_path / "labels.csv")


def test_labels_and_techniques_may_have_any_case_and_semicolons_may_separate(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    text = 'file;label;technique;regions;source\na.jpg;Fake;fs;"eyes;nose";mine\na.jpg;REAL;;;mine\n'
    (tmp_path / "labels.csv").write_text(text)

    forged, bona_fide = read_manifest(tmp_path / "labels.csv")

    assert (forged.deepfake, forged.technique, forged.regions) == (True, Technique.FS, {"eyes", "nose"})
    assert (bona_fide.deepfake, bona_fide.technique) == (False, None)
    assert sources_named(tmp_path / "labels.csv") == {"mine"}


def test_the_column_type_of_training_tables_may_hold_anything(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "labels.csv").write_text("file,label,type\na.jpg,fake,FE\na.jpg,fake,DeepFakes\n")

    assert [item.technique for item in read_manifest(tmp_path / "labels.csv")] == [Technique.FE, None]


def test_the_document_names_every_region() -> None:
    (row,) = [line for line in MODELS.read_text().splitlines() if line.startswith("| `regions` |")]

    assert all(f"`{region}`" in row for region in Region)


def test_a_split_without_both_labels_is_refused(manifest: Path) -> None:
    with pytest.raises(SetupProblem, match="--split"):
        of_split(read_manifest(manifest), "calibration")


def test_baselines_need_a_training_split(manifest: Path, tiny: BundleSpec, tmp_path: Path) -> None:
    entries = [json.loads(line) for line in manifest.read_text().splitlines()]
    files = (
        {name: str(manifest.parent / entry[name]) for name in ("image", "mask") if entry[name]}
        for entry in entries
    )
    lines = [json.dumps({**entry, **found}) for entry, found in zip(entries, files, strict=True)]
    (tmp_path / "manifest.jsonl").write_text("\n".join(line for line in lines if '"split": "test"' in line))

    with pytest.raises(SetupProblem, match="training split"):
        run_bench(
            [tmp_path / "manifest.jsonl"],
            tiny.folder,
            BenchPlan(grid=0, baselines=BaselinePlan(steps=1)),
            now=NOW,
        )


def test_the_command_writes_the_report(manifest: Path, tiny: BundleSpec, tmp_path: Path) -> None:
    arguments = [
        str(manifest),
        "--bundle",
        str(tiny.folder),
        "--out",
        str(tmp_path),
        "--grid",
        "0",
        "--injections",
        "0",
        "--pictures",
        "20",
    ]

    result = CliRunner().invoke(app, ["bench", *arguments, "--device", "cpu", "--json"])

    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["bundle"] == "tiny 0-untrained"
    told = result.stderr.splitlines()  # no terminal
    parts = [line.partition(":")[0] for line in told]
    assert parts[:2] == ["loading the bundle", "asking"]
    assert parts[-2:] == ["verdict given", "computing intervals"]
    assert "talking: 0 of 200 questions" in told
    assert not {"demands in conversation", "robustness"} & set(parts)
    assert (tmp_path / "report.html").is_file()


def test_every_question_is_about_a_face_with_a_verdict_and_a_model_that_babbles_is_no_good(
    manifest: Path, tiny: BundleSpec
) -> None:
    policy = Policy(minimum_mass=0.0, band=0.0, max_new_tokens=6)  # it knows nothing, and is to say so
    detector = Detector.load(tiny.folder, device="cpu", policy=policy)
    items = of_split(read_manifest(manifest), "test")[:2]

    talked = talk(detector, items, 5)
    again = talk(detector, items, 5)
    detector.close()

    assert len({each.asked.family for each in talked}) == 5
    assert {each.item for each in talked} == set(items)
    assert [each.written for each in talked] == [each.written for each in again]
    assert not any(each.scored.good for each in talked)
    assert conversation_table(talked).rows[0][:2] == ("all", 5)
