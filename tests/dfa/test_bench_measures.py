"""The bench's numbers against libraries, against cases done by hand, and on models whose worth is known."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from scipy.stats import binomtest, bootstrap
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    precision_recall_fscore_support,
    roc_auc_score,
    roc_curve,
)

from moderation.analysis import Abstain, Artifact, Label, Region, Technique, Verdict, undetermined
from moderation.dfa.bench.ask import Judged, Told
from moderation.dfa.bench.calibration import (
    abstain_codes,
    abstention_table,
    brier,
    expected_calibration_error,
    reliability,
    risk_coverage,
    slope_and_intercept,
)
from moderation.dfa.bench.description import (
    Described,
    blind_answers,
    cider,
    description_table,
    invented_table,
    rouge_l,
    shuffled,
)
from moderation.dfa.bench.detection import (
    Detection,
    average_precision,
    detection,
    detection_table,
    equal_error_rate,
    file_numbers,
    normalisation_table,
    shortcut_table,
    technique_f1,
    technique_table,
    thresholds,
    tpr_at,
    videos,
)
from moderation.dfa.bench.estimates import (
    Estimate,
    auc,
    auc_estimate,
    macro_f1,
    mean_estimate,
    mean_estimates,
    region_counts,
    region_scores,
    share,
)
from moderation.dfa.bench.manifest import Item, sampled
from moderation.dfa.bench.tables import Table, in_words
from moderation.intervals import wilson


@pytest.fixture
def rng() -> np.random.Generator:
    """Each test draws from a beginning of its own: whichever ran before it, it sees the same numbers."""
    return np.random.default_rng(0)


def an_item(number: int = 0, *, deepfake: bool = True, **fields: Any) -> Item:
    values: dict[str, Any] = {
        "file": Path(f"{number}.jpg"),
        "deepfake": deepfake,
        "technique": Technique.FS if deepfake else None,
        "source": "somewhere",
        "group": str(number),
        "video": None,
        "split": "test",
        "crop": True,
        "regions": None,
        "description": None,
        **fields,
    }
    return Item(**values)


def judged(score: float | None, item: Item, **fields: Any) -> Judged:
    if score is None:
        return Judged(item, fields.pop("verdict", undetermined(Abstain.NO_FACE)), **fields)
    label = Label.DEEPFAKE if score >= 0.5 else Label.BONA_FIDE
    technique = fields.pop("technique", None)
    verdict = Verdict(label, score=score, technique=technique if label is Label.DEEPFAKE else None)
    return Judged(item, fields.pop("verdict", verdict), **fields)


def tied_scores(rng: np.random.Generator, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties that say something about the labels."""
    labels = rng.random(n) < 0.4
    return np.round(np.clip(rng.normal(0.4 + 0.2 * labels, 0.25), 0, 1), 1), labels


# --- against libraries ---


def test_ranks_are_those_of_scikit_learn(rng: np.random.Generator) -> None:
    scores, labels = tied_scores(rng)

    curve = thresholds(scores, labels)

    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert curve.fpr == pytest.approx(fpr)
    assert curve.tpr == pytest.approx(tpr)
    assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
    assert average_precision(curve) == pytest.approx(average_precision_score(labels, scores))
    assert equal_error_rate(curve) == pytest.approx(
        brentq(lambda x: 1 - x - interp1d(fpr, tpr)(x), 0, 1), abs=1e-6
    )
    assert tpr_at(0.3, curve) == max(t for f, t in zip(fpr, tpr, strict=True) if f <= 0.3)


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 10), (10, 10), (120, 240)])
def test_a_share_has_wilsons_interval(hits: int, n: int) -> None:
    interval = binomtest(hits, n).proportion_ci(method="wilson")

    result = share(hits, n)

    assert (result.low, result.high) == pytest.approx((interval.low, interval.high), abs=1e-6)


def test_what_no_resample_changes_has_wilsons_interval_of_the_groups() -> None:
    groups = ["a", "a", "b"]
    always, never = mean_estimate([1, 1, 1], groups), mean_estimates([[0.0, 0.5], [0.0, 0.5]], ["a", "b"])

    assert (always.low, always.high) == wilson(2, 2)
    assert (never[0].low, never[0].high) == wilson(0, 2)
    assert (never[1].low, never[1].high) == (0.5, 0.5)  # no share of 0 or 1
    parted = auc_estimate([0.1, 0.9], [False, True], ["a", "b"])
    assert (parted.value, parted.low) == (1.0, wilson(2, 2)[0])


def test_an_interval_by_groups_of_one_is_scipys_percentile_interval(rng: np.random.Generator) -> None:
    values = rng.normal(3, 1, 80)
    theirs = bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=1).confidence_interval

    ours = mean_estimate(values.tolist(), [str(number) for number in range(80)])

    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.05)


def test_macro_f1_and_region_scores_are_those_of_scikit_learn(rng: np.random.Generator) -> None:
    names = ["FS", "FR", "FE"]
    truth, said = rng.choice(names, 90).tolist(), rng.choice(names, 90).tolist()
    touched, named = rng.random((60, 5)) < 0.4, rng.random((60, 5)) < 0.5

    def as_sets(table: np.ndarray) -> list[set[str]]:
        return [{str(column) for column in np.flatnonzero(row)} for row in table]

    precision, recall, f1, _ = precision_recall_fscore_support(touched, named, average="micro")
    assert macro_f1(truth, said, names) == pytest.approx(f1_score(truth, said, average="macro"))
    assert region_scores(region_counts(as_sets(touched), as_sets(named))) == pytest.approx(
        (precision, recall, f1)
    )


def test_brier_is_that_of_scikit_learn(rng: np.random.Generator) -> None:
    scores, labels = tied_scores(rng)

    assert brier(scores, labels) == pytest.approx(brier_score_loss(labels, scores))


# --- by hand ---


def test_the_equal_error_rate_lies_between_two_thresholds() -> None:
    # One of three positives below one of two negatives: FPR 1/2 meets a miss rate of 1/3 between .6 and .4.
    curve = thresholds(np.array([0.9, 0.8, 0.4, 0.6, 0.1]), np.array([1, 1, 1, 0, 0], dtype=bool))

    assert equal_error_rate(curve) == pytest.approx(1 / 3)
    assert tpr_at(0.01, curve) == pytest.approx(2 / 3)


def test_the_calibration_error_is_the_gap_of_each_bin() -> None:
    # Fifteen bins of two: in every one the scores say .8 and half are deepfakes.
    scores, labels = np.full(30, 0.8), np.tile([True, False], 15)

    assert expected_calibration_error(scores, labels) == pytest.approx(0.3)
    assert brier(scores, labels) == pytest.approx((0.2**2 + 0.8**2) / 2)


def test_the_slope_is_the_one_that_the_labels_were_drawn_with(rng: np.random.Generator) -> None:
    margins = rng.normal(0, 2, 20_000)
    labels = rng.random(20_000) < 1 / (1 + np.exp(-(2 * margins + 0.5)))
    scores = 1 / (1 + np.exp(-margins))

    assert slope_and_intercept(scores, labels) == pytest.approx((2, 0.5), abs=0.12)


def test_a_calibrated_score_has_slope_one_and_lies_on_the_diagonal(rng: np.random.Generator) -> None:
    scores = rng.random(20_000) * 0.98 + 0.01
    labels = rng.random(20_000) < scores

    assert slope_and_intercept(scores, labels) == pytest.approx((1, 0), abs=0.08)
    assert expected_calibration_error(scores, labels) < 0.02
    assert all(
        each.deepfakes.low - 0.02 < each.mean_score < each.deepfakes.high + 0.02
        for each in reliability(scores, labels)
    )


def test_too_few_labels_have_no_slope() -> None:
    assert all(np.isnan(slope_and_intercept(np.array([0.2, 0.8]), np.array([False, True]))))


def test_risk_rises_with_coverage_and_unjudged_pictures_come_last() -> None:
    rows = [
        judged(0.95, an_item(1)),  # sure and right
        judged(0.10, an_item(2)),  # less sure and wrong
        judged(0.60, an_item(3, deepfake=False)),  # least sure and wrong
        judged(None, an_item(4)),
    ]

    coverage, risk = risk_coverage(rows, 0.5)

    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk.tolist() == pytest.approx([0, 1 / 2, 2 / 3, 3 / 4])
    served = next(row for row in abstention_table(rows, 0.5).rows if row[0] == "as served")
    assert served[1] == pytest.approx(0.75)
    assert estimate_of(served[2]) == pytest.approx(2 / 3)
    assert abstain_codes(rows).rows == [("no_face", 1, 0)]


def test_a_refused_picture_is_counted_by_its_code() -> None:
    row = judged(None, an_item(deepfake=False), refusal="image_corrupt")

    assert abstain_codes([row]).rows == [("image_corrupt", 0, 1)]


def test_a_picture_without_a_score_is_wrong_and_a_deepfake_without_one_is_missed() -> None:
    rows = [
        judged(0.9, an_item(1)),
        judged(None, an_item(2)),
        judged(0.1, an_item(3, deepfake=False)),
        judged(None, an_item(4, deepfake=False)),
    ]

    result = detection(rows, 0.5)

    assert result.auc.value == 1
    assert result.auc.n == 2
    assert result.accuracy.value == pytest.approx(0.5)
    assert result.fnr.value == pytest.approx(0.5)
    assert result.fpr.value == 0
    assert result.abstained.value == pytest.approx(0.5)


def test_an_unread_reply_is_wrong() -> None:
    unread = Verdict(Label.UNDETERMINED, score=0.9, abstain=Abstain.UNPARSED)

    assert detection([judged(0.9, an_item(), verdict=unread)], 0.5).accuracy.value == 0


def test_a_source_is_judged_against_the_bona_fide_that_share_most_with_it() -> None:
    forged = [judged(0.9, an_item(n, source="lab/FS", group=f"p{n}")) for n in range(12)]
    twins = [judged(0.1, an_item(100 + n, deepfake=False, source="lfw", group=f"p{n}")) for n in range(12)]
    others = [judged(0.8, an_item(200 + n, deepfake=False, source="dfdc")) for n in range(12)]

    table = detection_table([*forged, *twins, *others], 0.5)

    row = next(row for row in table.rows if str(row[0]).startswith("lab/FS"))
    assert row[0] == "lab/FS, against those of its groups"
    assert row[1:3] == (12, 12)
    assert estimate_of(row[table.columns.index("FPR")]) == 0


def test_frames_of_a_video_are_judged_by_their_mean() -> None:
    rows = [judged(score, an_item(n, video="clip", group="g")) for n, score in enumerate([0.2, 0.9, 0.7])]

    (unit,) = videos([*rows])

    assert unit.score == pytest.approx(0.6)


def test_techniques_missed_are_wrong_as_served() -> None:
    rows = [
        judged(0.9, an_item(1), technique=Technique.FS),
        judged(0.9, an_item(2, technique=Technique.FE), technique=Technique.FS),
        judged(0.1, an_item(3, technique=Technique.FE)),
        judged(0.7, an_item(4, deepfake=False), technique=Technique.EFS),
    ]

    table = technique_table(rows)

    counts = {str(row[0]): dict(zip(table.columns[1:], row[1:], strict=True)) for row in table.rows}
    assert counts["FE"]["FS"] == 1
    assert counts["FE"]["bona_fide"] == 1
    assert counts["bona_fide"]["EFS"] == 1
    assert technique_f1([row.item for row in rows[:3]], ["FS", "FS", None]).value == pytest.approx(
        (2 / 3 + 0) / 2
    )


def test_normalisations_differ_where_answers_differ_in_length() -> None:
    # EFS is twice as long: per token it is the likelier, as a whole it is not; on grey it is likely anyway.
    sums = {Technique.FS: -4.0, Technique.EFS: -6.0}
    told = [Told(an_item(technique=Technique.FS), sums, Technique.EFS, frozenset(), "")]
    grey = {Technique.FS: -9.0, Technique.EFS: -6.0}

    table = normalisation_table(told, grey, {Technique.FS: 2, Technique.EFS: 4})

    f1 = {str(row[0]): estimate_of(row[2]) for row in table.rows}
    assert f1 == {"sum": 1.0, "mean": 0.0, "prior": 1.0}


def test_cider_weighs_what_few_references_say() -> None:
    references = ["the nose is blurred", "the mouth is bent", "the eyes are sharp"]

    scores = cider(references, ["the nose is blurred", "the", "the eyes are blurred"])

    assert scores[0] == pytest.approx(10)
    assert scores[1] == 0  # every reference says "the"
    # Of words: eyes, are (log 3 each) and sharp against blurred, 2/3; of twos: two of three; of threes: one of two.
    assert scores[2] == pytest.approx(10 * (2 / 3 + 2 / 3 + 1 / 2 + 0) / 4)


def test_rouge_l_is_the_longest_common_subsequence() -> None:
    assert rouge_l("the nose is blurred", "the nose looks blurred") == pytest.approx(0.75)
    assert rouge_l("the nose", "") == 0


# --- models whose worth is known ---


def described_items(n: int = 60) -> list[Item]:
    parts = [region.value for region in (Region.MOUTH, Region.EYES, Region.NOSE, Region.SKIN)]
    return [
        an_item(
            number,
            regions=frozenset({parts[number % 4], parts[(number // 4) % 4]}),
            description=f"1. **{parts[number % 4]}**: It is blurred.",
        )
        for number in range(n)
    ]


def by_oracle(items: Sequence[Item]) -> list[Judged]:
    return [
        judged(
            0.99 if item.deepfake else 0.01,
            item,
            technique=item.technique,
            rationale=tuple(
                Artifact(region, "blurred", (Region(region),)) for region in sorted(item.regions or ())
            ),
            reply=item.description,
        )
        for item in items
    ]


def test_an_oracle_scores_one_everywhere() -> None:
    items = [*described_items(), *(an_item(1000 + n, deepfake=False, regions=frozenset()) for n in range(30))]
    rows = by_oracle(items)

    whole = detection(rows, 0.5)

    assert (whole.auc.value, whole.eer.value, whole.tpr_at_low_fpr.value, whole.accuracy.value) == (
        1,
        0,
        1,
        1,
    )
    table = description_table(rows, [], [])
    assert row_of(table, "as served")["F1"].value == 1
    assert row_of(table, "as served")["ROUGE-L"].value == 1
    assert invented_table(rows).rows[0][1] == Estimate(0, *wilson(0, 30), 30)


def test_a_model_that_guesses_is_at_chance(rng: np.random.Generator) -> None:
    def guessed() -> Detection:
        rows = [judged(float(rng.random()), an_item(n, deepfake=n % 2 == 0)) for n in range(200)]
        return detection(rows, 0.5)

    results = [guessed() for _ in range(20)]

    # Of twenty intervals of 95 %, one is expected to miss what it is about.
    assert sum(result.auc.low < 0.5 < result.auc.high for result in results) >= 17
    assert sum(result.accuracy.low < 0.5 < result.accuracy.high for result in results) >= 17
    assert np.mean([result.tpr_at_low_fpr.value for result in results]) < 0.05


def test_a_blind_template_scores_without_eyes_and_less_than_the_oracle() -> None:
    items = described_items()

    table = description_table(by_oracle(items), [], [])

    assert 0 < row_of(table, "– a blind template")["F1"].value < 1
    assert 0 < row_of(table, "– the same answers, pictures shuffled")["F1"].value < 1


def test_the_labs_forgeries_have_a_row_of_their_own_beside_a_blind_template() -> None:
    from_lab = [replace(item, source=f"lab/{item.technique}") for item in described_items(40)]
    others = [
        replace(item, file=Path(f"other-{item.file}"), group=f"o{item.group}") for item in described_items(40)
    ]
    wrong = [replace(j, rationale=()) for j in by_oracle(others)]

    table = description_table([*by_oracle(from_lab), *wrong], [], [])

    names = [str(row[0]) for row in table.rows]
    lab = names.index("as served, the lab's called deepfakes")
    assert table.rows[lab][1] == 40
    assert getattr(table.rows[lab][4], "value") == 1.0  # noqa: B009  a cell is an estimate here
    assert names[lab + 1] == "– a blind template"
    assert getattr(table.rows[lab + 1][4], "value") < 1  # noqa: B009
    assert row_of(table, "as served")["F1"].value < 1
    alone = description_table(wrong, [], [])
    assert "as served, the lab's called deepfakes" not in {row[0] for row in alone.rows}


def test_a_model_that_says_what_it_always_says_gains_nothing_over_shuffling() -> None:
    answers = [Described(item, frozenset({"mouth"}), "") for item in described_items()]

    moved = shuffled(answers)

    def score(given: Sequence[Described]) -> tuple[float, float, float]:
        return region_scores(
            region_counts([a.item.regions or set() for a in given], [a.regions for a in given])
        )

    assert score(moved) == score(answers)


def test_a_blind_template_never_learns_from_the_group_that_it_answers_for() -> None:
    # Every group has a region of its own: a template fitted on other groups cannot name it.
    regions = list(Region)
    items = [
        an_item(number, group=region.value, regions=frozenset({region.value}), description=region.value)
        for number, region in enumerate(regions)
    ]

    answers = blind_answers(items, [])

    assert all(not answer.regions & (answer.item.regions or set()) for answer in answers)
    assert all(answer.text != answer.item.description for answer in answers)


def test_a_blind_template_is_fitted_on_the_training_split_where_there_is_one() -> None:
    training = [an_item(n, regions=frozenset({"neck"}), description="The neck.") for n in range(5)]

    answers = blind_answers(described_items(8), training)

    assert {answer.regions for answer in answers} == {frozenset({"neck"})}
    assert {answer.text for answer in answers} == {"The neck."}


def test_no_answer_stays_with_its_picture_when_shuffled() -> None:
    answers = [Described(item, frozenset({item.group}), item.group) for item in described_items(9)]

    moved = shuffled(answers)

    assert all(answer.text != answer.item.group for answer in moved)
    assert sorted(answer.text for answer in moved) == sorted(answer.text for answer in answers)


def test_invented_regions_and_contradictions_are_counted() -> None:
    shown = (Artifact("Mouth and Nose", "blurred", (Region.MOUTH, Region.NOSE)),)
    rows = [
        judged(
            0.9, an_item(1, deepfake=False), rationale=shown, reply="1. **Mouth and Nose**: It is blurred."
        ),
        judged(0.1, an_item(2, deepfake=False), reply="1. **Eyes**: They are blurred."),
        judged(0.1, an_item(3, deepfake=False), reply="There are no artifacts."),
        judged(0.1, an_item(4, deepfake=False)),
    ]

    table = invented_table(rows)

    found = dict(zip(table.columns, table.rows[0], strict=True))
    assert estimate_of(found["regions shown per picture"]) == pytest.approx(2 / 4)
    assert estimate_of(found["share with any shown"]) == pytest.approx(1 / 4)
    assert estimate_of(found["regions written per picture"]) == pytest.approx(3 / 4)
    assert estimate_of(found["replies that contradict their verdict"]) == pytest.approx(1 / 3)


# --- files ---


def a_jpeg(folder: Path, name: str, quality: int, side: int = 64) -> Path:
    noise = np.random.default_rng(int(side)).integers(0, 255, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=quality)
    (folder / name).write_bytes(buffer.getvalue())
    return folder / name


def test_what_a_file_gives_away_is_found_as_a_shortcut(tmp_path: Path) -> None:
    forged = [an_item(n, file=a_jpeg(tmp_path, f"f{n}.jpg", 60)) for n in range(4)]
    bona_fide = [an_item(10 + n, deepfake=False, file=a_jpeg(tmp_path, f"b{n}.jpg", 95)) for n in range(4)]

    table = shortcut_table([judged(0.5, item) for item in (*forged, *bona_fide)])

    whole = dict(zip(table.columns, table.rows[0], strict=True))
    assert estimate_of(whole["bytes per pixel"]) == 0
    assert estimate_of(whole["longer side"]) == 0.5
    assert estimate_of(whole["first luminance table entry"]) == 1


def test_a_file_without_tables_has_none(tmp_path: Path) -> None:
    Image.new("RGB", (40, 20)).save(tmp_path / "x.png")

    numbers = file_numbers((tmp_path / "x.png").read_bytes())

    assert (numbers.side, numbers.table) == (40, 0)


def test_a_sample_keeps_pairs_and_every_source() -> None:
    items = [
        an_item(2 * n + forged, deepfake=bool(forged), source=("a", "b")[n % 2], group=str(n))
        for n in range(40)
        for forged in (0, 1)
    ]

    kept = sampled(items, 20, seed=1)

    assert len(kept) == 20
    assert {item.source for item in kept} == {"a", "b"}
    assert all(sum(other.group == item.group for other in kept) == 2 for item in kept)
    assert kept == sampled(items, 20, seed=1)


def test_what_is_not_a_number_is_said_so() -> None:
    nothing = float("nan")
    table = Table("t", "T", "", ("row", "value"), [("x", Estimate(nothing, nothing, nothing, 0))])

    assert table.as_json() == [{"row": "x", "value": {"value": None, "low": None, "high": None, "n": 0}}]
    assert in_words(table.rows[0][1]) == "–"
    assert "| x | – |" in table.as_markdown()


def estimate_of(cell: object) -> float:
    assert isinstance(cell, Estimate)
    return cell.value


def row_of(table: Table, name: str) -> dict[str, Any]:
    row = next(row for row in table.rows if row[0] == name)
    return dict(zip(table.columns, row, strict=True))
