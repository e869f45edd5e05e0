"""What a tower is chosen by: sources that it never saw."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from moderation.analysis import Label, Technique
from moderation.dfa.gpt.calibration import Platt, sigmoid
from moderation.dfa.gpt.layouts import random_bundle
from moderation.dfa.instruct.pool import Pooled
from moderation.dfa.train.probe import held_out
from moderation.dfa.train.sight import Sight
from moderation.dfa.train.sources_out import (
    Looked,
    as_left_out_table,
    as_table,
    calibrated,
    each_left_out,
    honesty,
    left_out,
    look_at,
    strangers,
)
from tests.dfa.drawn_faces import a_pool
from tests.dfa.test_train_probe import faces


def a_look(shift: float, *, each: int = 60, seed: int = 0) -> Looked:
    """Three sources whose forged faces score `shift` above the bona fide ones, in spreads."""
    rng = np.random.default_rng(seed)
    rows, logits = [], []
    template = a_pool(4).rows[0]
    for source in ("one", "two", "three"):
        for label in (Label.BONA_FIDE, Label.DEEPFAKE):
            for number in range(each):
                rows.append(_row(template, source, label, number))
                logits.append(rng.normal() + (shift if label is Label.DEEPFAKE else 0))
    count = len(rows)
    return Looked(tuple(rows), np.array(logits), {"side": rng.normal(size=count)})


def _row(template: Pooled, source: str, label: Label, number: int) -> Pooled:
    fields: dict[str, Any] = {**vars(template), "source": source, "origin": source, "label": label}
    fields |= {"technique": Technique.FS if label is Label.DEEPFAKE else None, "group": f"{source}/{number}"}
    return Pooled(**fields)


def test_one_who_knows_the_label_has_an_auc_of_one_and_one_who_guesses_half() -> None:
    knowing, guessing = (strangers(a_look(shift)) for shift in (50, 0))

    assert [each.auc.value for each in knowing] == [1.0, 1.0, 1.0]
    assert np.mean([each.auc.value for each in guessing]) == pytest.approx(0.5, abs=0.08)
    assert all(each.auc.low <= 0.5 <= each.auc.high for each in guessing)


def calibrated_on(looked: Looked) -> Platt:
    origins = np.array([row.origin for row in looked.rows])
    return calibrated(looked.logits, looked.deepfake, origins, version="test")


def test_probabilities_fitted_on_some_sources_are_honest_on_others_that_are_alike() -> None:
    platt = calibrated_on(a_look(2.0, each=600, seed=1))

    kept = honesty(a_look(2.0, each=600, seed=2), platt)

    assert platt.a > 0
    assert platt.zone is not None
    assert platt.zone[0] == 0.5 < platt.zone[1]
    assert platt.probability(1.0) == pytest.approx(0.5, abs=0.05)  # half way between the two
    assert kept["ECE"].value < 0.05
    assert kept["bona fide called a deepfake"].value == pytest.approx(0.09, abs=0.02)
    assert kept["deepfakes found"].value == pytest.approx(0.745, abs=0.04)  # a normal spread beyond −.66
    assert kept["left undecided"].value == pytest.approx(0.08, abs=0.03)


def test_a_source_that_scores_otherwise_shows_in_the_error() -> None:
    looked = a_look(2.0, each=300)
    moved = looked.logits + np.array([3.0 if row.source == "three" else 0.0 for row in looked.rows])

    there = honesty(Looked(looked.rows, moved, looked.shortcuts), calibrated_on(looked))

    assert there["ECE"].value > honesty(looked, calibrated_on(looked))["ECE"].value + 0.05


def test_the_table_has_a_line_for_each_and_their_mean() -> None:
    lines = as_table(strangers(a_look(1.0))).splitlines()

    assert [line.split("|")[1].strip() for line in lines[2:]] == ["one", "three", "two", "mean over 3"]


def test_a_tower_looks_at_what_was_left_out_and_the_batch_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    sight = Sight(random_bundle(tmp_path_factory.mktemp("base"), "small-tiny").folder).eval()
    torch.manual_seed(0)
    torch.nn.init.normal_(sight.heads.judgement.weight)
    pool = a_pool()
    rows = left_out(pool, ["ifg_gan_faces"])

    one, other = (look_at(sight, pool, rows, batch=batch) for batch in (2, 64))

    assert {row.source for row in one.rows} == {"ifg_gan_faces"}
    np.testing.assert_allclose(one.logits, other.logits, atol=1e-4)
    assert len(set(one.logits.tolist())) > 1
    assert all(0 < sigmoid(logit) < 1 for logit in one.logits)


def test_every_origin_is_held_against_its_own_bona_fide_faces_by_a_verdict_without_it() -> None:
    _, drawn = faces(900, seed=1)
    in_the_lab = drawn.deepfake & (drawn.source == "three")
    stored = replace(drawn, origin=np.where(in_the_lab, "lab/FS", drawn.origin))
    turned = stored.source == "two"
    stored.deepfake[turned] = ~stored.deepfake[turned]

    served = stored.without({"three"})  # the lab serves nothing

    found = each_left_out(stored, held_out(stored), served)

    assert set(found) == {"one", "two", "three", "lab/FS"} - {"three"}
    assert found["two"].drawn.value < 0.1  # nobody told its verdict that this one is turned
    assert found["one"].drawn.value > found["two"].drawn.value + 0.3
    assert all(abs(each.quality.value - 0.5) < 0.12 for each in found.values())
    assert found["lab/FS"].served is None
    for same in (found["one"], found["two"]):  # the served faces are among the drawn ones
        assert same.served is not None
        assert same.served.value == pytest.approx(same.drawn.value)
    table = as_left_out_table(found).splitlines()
    assert "| – |" in next(line for line in table if line.startswith("| lab/FS |"))
    assert [cell.split(" of ")[1] for cell in table[-1].split(" | ")[1:]] == ["3", "2", "3 |"]
