"""What is fitted to the end on a tower that stands still."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812  what everybody calls it

from moderation.analysis import Label, Technique
from moderation.dfa.bench.estimates import auc
from moderation.dfa.gpt.heads import Heads
from moderation.dfa.gpt.layouts import random_bundle
from moderation.dfa.train.probe import (
    Stored,
    by_quality,
    distances_left_out,
    evened,
    fit_judgement,
    fit_probes,
    held_out,
    judged_without,
    served_features,
    stored_features,
)
from moderation.dfa.train.sight import Sight
from moderation.dfa.train.sources_out import calibration_of
from tests.dfa.drawn_faces import a_pool, write_pool

WIDE = 64


def faces(count: int, *, seed: int, techniques: int = 4) -> tuple[torch.Tensor, Stored]:
    """Hidden states whose class token says the label in one direction and each technique in one of its own."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(WIDE, 5, generator=torch.Generator().manual_seed(9)))[0].T
    label = torch.arange(count) % 2
    technique = torch.arange(count) // 2 % techniques
    states = torch.randn(count, 3, 2, WIDE // 2, generator=generator)
    pushed = 3.0 * directions[0] * label[:, None] + 4.0 * directions[1 + technique] * label[:, None]
    states[:, 0] += pushed.view(count, 2, WIDE // 2)
    even = F.layer_norm(states, (WIDE // 2,)).flatten(2)
    features, patches = (F.normalize(each, dim=-1) for each in (even[:, 0], even[:, 1:].mean(dim=1)))
    known = torch.where(label == 1, technique, -1)
    source = np.array(["one", "two", "three"])[np.arange(count) // 2 % 3]
    quality = np.abs(np.random.default_rng(seed).normal(size=(count, 4)))
    return states, Stored(
        features=features.numpy(),
        patches=patches.numpy(),
        foreign=patches.numpy(),  # no patch looks more foreign to fresh heads than another
        deepfake=label.numpy().astype(bool),
        technique=known.numpy(),
        source=source,
        origin=source,
        quality=quality,
    )


@pytest.mark.parametrize("techniques", [4, 2])
def test_the_heads_answer_as_the_probes_that_were_fitted(techniques: int) -> None:
    heads = Heads(2, WIDE // 2)
    fit_probes(heads, faces(600, seed=1, techniques=techniques)[1])
    states, unseen = faces(400, seed=2, techniques=techniques)

    with torch.inference_mode():
        said = heads(states)

    assert ((said.verdict > 0).numpy() == unseen.deepfake).mean() > 0.9
    forged = unseen.technique >= 0
    named = said.technique.argmax(dim=-1).numpy()
    assert (named == unseen.technique)[forged].mean() > 0.85
    assert said.technique.shape[1] == len(Technique)


def test_what_only_the_patches_show_is_read_from_them() -> None:
    heads = Heads(2, WIDE // 2)
    states, stored = faces(600, seed=1)
    label = torch.from_numpy(stored.deepfake)
    states[:, 0] = torch.randn(600, 2, WIDE // 2, generator=torch.Generator().manual_seed(3))
    states[label, 1:, 0, :8] += 2.0
    states[torch.from_numpy(stored.technique == 1), 1:, 1, :8] += 2.0
    even = F.layer_norm(states, (WIDE // 2,)).flatten(2)
    features, patches = (F.normalize(each, dim=-1) for each in (even[:, 0], even[:, 1:].mean(dim=1)))
    mean = patches.numpy()
    fit_probes(heads, replace(stored, features=features.numpy(), patches=mean, foreign=mean))

    with torch.inference_mode():
        said = heads(states)

    named = said.technique.argmax(dim=-1)[label] == 1
    assert auc(named.float().numpy(), stored.technique[stored.deepfake] == 1) > 0.9
    assert auc((said.verdict + said.local).numpy(), stored.deepfake) > 0.95
    assert auc(said.verdict.numpy(), stored.deepfake) < 0.7


def test_what_a_language_model_was_taught_stays_when_the_judgement_is_fitted_anew() -> None:
    heads = Heads(2, WIDE // 2)
    states, stored = faces(600, seed=1)
    fit_probes(heads, stored)
    other = replace(stored, deepfake=stored.technique == 1)  # not what the first was fitted to
    with torch.inference_mode():
        before = heads(states)

    fit_judgement(heads, other)

    with torch.inference_mode():
        after = heads(states)
    assert torch.equal(after.verdict, before.verdict)
    assert auc((after.verdict + after.local).numpy(), other.deepfake) > 0.95


def test_every_origin_weighs_the_same_and_so_do_both_labels() -> None:
    _, stored = faces(90, seed=1)
    stored.origin[:] = np.where(np.arange(90) < 60, "many", "few")

    weights = evened(stored)

    for forged in (False, True):
        sums = [
            weights[(stored.origin == name) & (stored.deepfake == forged)].sum() for name in ("many", "few")
        ]
        assert sums == pytest.approx([22.5, 22.5])


def test_sources_are_left_out_by_the_folder_they_come_from() -> None:
    _, stored = faces(60, seed=1)

    left = stored.without(["two"])

    assert set(left.source) == {"one", "three"}
    assert len(left.features) == len(left.deepfake) == len(left.technique) == 40


def test_a_face_is_judged_by_a_verdict_that_never_saw_its_source() -> None:
    _, stored = faces(600, seed=1)
    turned = stored.source == "two"
    stored.deepfake[turned] = ~stored.deepfake[turned]  # a source of another mind

    logits = held_out(stored)

    right = (logits > 0) == stored.deepfake
    assert right[turned].mean() < 0.2  # nobody told it that this one is turned
    assert right[~turned].mean() == pytest.approx(0.5, abs=0.1)  # taught by one turned and one not


def test_a_source_that_lies_apart_is_far_from_the_others_when_it_is_left_out() -> None:
    _, stored = faces(1200, seed=1)
    apart = stored.source == "two"
    stored.features[apart] += 0.5 * np.sign(np.arange(WIDE) % 2 - 0.5)

    distances = distances_left_out(stored)

    assert np.isnan(distances[stored.deepfake]).all()
    assert np.nanmin(distances[apart]) > 2 * np.nanmean(distances[stored.source == "one"])


def test_the_calibration_calls_one_face_in_a_hundred_of_sources_left_out_too_strange() -> None:
    _, stored = faces(1200, seed=1)

    platt = calibration_of(stored, held_out(stored), today=date(2026, 1, 1))

    distances = distances_left_out(stored)[~stored.deepfake]
    assert platt.strangest is not None
    assert (distances > platt.strangest).mean() == pytest.approx(0.01, abs=0.002)
    assert "one, three, two" in platt.basis


def test_a_source_with_few_faces_says_nothing_of_strangers() -> None:
    _, stored = faces(60, seed=1)
    stored.source[:] = np.where(np.arange(60) < 10, "few", "many")
    stored.source[40:] = "others"

    logits = held_out(stored)

    assert np.isnan(logits[stored.source == "few"]).all()
    assert not np.isnan(logits[stored.source != "few"]).any()


def test_a_shortcut_in_the_quality_is_found_and_without_one_there_is_none() -> None:
    _, even = faces(900, seed=1)
    _, soft = faces(900, seed=1)
    soft.quality[soft.deepfake, 0] *= 0.3  # forged ones lack fine detail

    assert auc(by_quality(even), even.deepfake) == pytest.approx(0.5, abs=0.06)
    assert auc(by_quality(soft), soft.deepfake) > 0.75


@pytest.mark.parametrize("loaders", [0, 1])
def test_faces_are_drawn_in_twos_without_what_is_left_out_and_the_same_each_time(
    tmp_path: Path, loaders: int
) -> None:
    sight = Sight(random_bundle(tmp_path / "base", "small-tiny").folder).eval()
    pool = write_pool(a_pool(), tmp_path)

    stored = stored_features(sight, pool, 6, without=["ifg_gan_faces"], loaders=loaders, batch=4)
    again = stored_features(sight, pool, 6, without=["ifg_gan_faces"], batch=2)

    assert stored.deepfake.tolist() == [False, True] * 6
    assert "ifg_gan_faces" not in set(stored.source)
    assert (stored.technique[~stored.deepfake] == -1).all()
    assert stored.quality.shape == (12, 4)
    assert stored.origin.tolist() == again.origin.tolist()
    np.testing.assert_allclose(stored.features, again.features, atol=1e-4)


def test_served_faces_are_those_of_the_pool_and_the_batch_changes_nothing(tmp_path: Path) -> None:
    sight = Sight(random_bundle(tmp_path / "base", "small-tiny").folder).eval()
    pool = a_pool()

    served, again = (served_features(sight, pool, pool.rows, batch=batch) for batch in (5, 64))

    assert served.deepfake.tolist() == [row.label is Label.DEEPFAKE for row in pool.rows]
    assert served.origin.tolist() == [row.origin for row in pool.rows]
    np.testing.assert_allclose(served.features, again.features, atol=1e-4)


def test_other_faces_are_judged_by_a_verdict_that_never_saw_their_source() -> None:
    _, stored = faces(600, seed=1)
    _, others = faces(90, seed=2)

    logits = judged_without(stored, others)

    turned = replace(stored, deepfake=np.where(stored.source == "two", ~stored.deepfake, stored.deepfake))
    own = others.source == "two"
    np.testing.assert_allclose(judged_without(turned, others)[own], logits[own], atol=1e-3)
    assert ((logits > 0) == others.deepfake).mean() > 0.8
