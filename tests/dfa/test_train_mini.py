"""The whole of `bonafide dfa train mini` in miniature: every stage runs, and what comes out is a bundle that serves."""

import datetime
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from moderation.dfa.gpt.bundle import MINI, load_bundle, read_bundle
from moderation.dfa.train.lora import LoraPlan
from moderation.dfa.train.mini import MiniPlan, tower_of, train_mini
from moderation.dfa.train.sight import SightPlan
from moderation.dfa.train.speech import SpeechPlan
from tests.dfa.drawn_faces import a_pool

#: peft 0.21 asks transformers 5.23 by a name that transformers renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


def test_every_stage_ends_in_a_bundle_with_its_card(tmp_path: Path) -> None:
    _write_pool(tmp_path / "work" / "pool")
    plan = MiniPlan(
        sight=SightPlan(seconds=3, twos=2),
        speech=SpeechPlan(seconds=3, twos=1, conversations=4),
        lora=LoraPlan(rank=4, alpha=8, batch=2),
        lora_twos=3,
        calibration_lab=2,
        calibration_pooled=2,
        report_lab=2,
        report_pooled=2,
        version="test",
        after=MINI,
    )

    spec, report = train_mini(
        tmp_path, tmp_path / "work", tmp_path / "out", plan,
        now=datetime.datetime.now(datetime.UTC), say=lambda _: None,
    )  # fmt: skip

    served = load_bundle(read_bundle(spec.folder), device=torch.device("cpu"), dtype=torch.float32)
    assert served.calibration is not None
    assert report.detection["lab all"].n == 16
    card = (spec.folder / "MODEL_CARD.md").read_text()
    assert f"goes on from that of mini {read_bundle(MINI).card.version}" in card
    assert "lab all" in card
    trained = tower_of(spec.folder).state_dict()
    before = tower_of(MINI).state_dict()
    assert any(not torch.equal(trained[name], before[name]) for name in trained)


def _write_pool(folder: Path) -> None:
    """The drawn pool as `build_pool` leaves one, with the same pictures in every split."""
    drawn = a_pool()
    rows = [
        replace(row, row=row.row + part * len(drawn.rows), split=split, group=f"{split}/{row.group}")
        for part, split in enumerate(("train", "calibration", "test"))
        for row in drawn.rows
    ]
    folder.mkdir(parents=True)
    np.save(folder / "crops.npy", np.concatenate([drawn.crops] * 3))
    (folder / "pool.jsonl").write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    (folder / "losses.json").write_text("{}")
