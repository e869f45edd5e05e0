"""What a run without a source is judged by, and what is taught of what is seen."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from moderation.analysis import Region, Technique
from moderation.dfa.bench.estimates import Estimate
from moderation.dfa.instruct.forgery.facts import Kind, Touch
from moderation.dfa.instruct.pool import Pool
from moderation.dfa.train.report import Judged, detection, examples_to_judge
from moderation.dfa.train.sight import REGIONS, Heads, as_batch, losses
from moderation.dfa.train.sources_out import as_table, look_at
from moderation.dfa.train.speech import seen_facts
from tests.dfa.drawn_faces import a_pool
from tests.dfa.test_train_sight import a_tower

LAB = 2


@pytest.fixture(scope="module")
def looked() -> list[Judged]:
    """A random tower's look at a test split made of the drawn pool."""
    examples = list(examples_to_judge(_in_test(a_pool()), split="test", lab=LAB, pooled=3, seed=1))
    torch.manual_seed(0)
    tower = a_tower().eval()
    return look_at(tower, Heads(tower.config.hidden_size).eval(), examples, batch=5)


def test_the_batch_changes_nothing(looked: list[Judged]) -> None:
    torch.manual_seed(0)
    tower = a_tower().eval()
    heads = Heads(tower.config.hidden_size).eval()

    again = look_at(tower, heads, [judged.example for judged in looked], batch=64)

    assert [j.margin for j in again] == pytest.approx([j.margin for j in looked], abs=1e-5)
    assert len({j.margin for j in looked}) > 1


def test_one_who_knows_the_label_has_an_auc_of_one_and_its_opposite_of_nought(looked: list[Judged]) -> None:
    knowing, contrary = (
        detection([replace(j, margin=sign * float(j.example.deepfake)) for j in looked], lab=LAB)
        for sign in (1, -1)
    )

    assert {"lab FS", "lab FR", "lab FE", "lab EFS", "ifg_gan_faces/celebahq_gan"} <= knowing.keys()
    assert {estimate.value for estimate in knowing.values()} == {1.0}
    assert {estimate.value for estimate in contrary.values()} == {0.0}


def test_the_table_sets_what_was_left_out_beside_the_whole() -> None:
    whole = {"lab FR": Estimate(0.8, 0.7, 0.9, 80), "lfw_faceswap": Estimate(0.9, 0.8, 1.0, 80)}
    without = {"lab FR": Estimate(0.6, 0.5, 0.7, 80), "lfw_faceswap": Estimate(0.9, 0.8, 1.0, 80)}

    table = as_table({"": whole, Technique.FR: without})

    assert "| lab FR | 0.800 [0.700, 0.900], n 80 | 0.600 [0.500, 0.700], n 80 |" in table
    assert "lfw" not in table


def test_the_order_within_a_two_is_what_costs() -> None:
    def order(verdicts: list[float]) -> float:
        """Bona fide, forged, bona fide, forged."""
        outputs: tuple[Tensor, Tensor, Tensor, Tensor] = (
            torch.tensor(verdicts, dtype=torch.float32),
            torch.zeros(4, 4),
            torch.zeros(4, len(REGIONS)),
            torch.zeros(4, 49),
        )
        drawn = list(examples_to_judge(_in_test(a_pool()), split="test", lab=1, pooled=0, seed=0))[:4]
        return losses(outputs, as_batch(drawn))["order"].item()

    assert order([0, 1, 5, 6]) == pytest.approx(order([-3, -2, 0, 1]))
    assert order([0, 1, 5, 6]) < order([1, 0, 6, 5])


def _in_test(pool: Pool) -> Pool:
    return Pool(pool.crops, tuple(replace(row, split="test") for row in pool.rows))


def test_only_what_the_tower_sees_is_talked_about() -> None:
    facts = (Touch(Region.EYES, Kind.SOFTER, 0.9), Touch(Region.MOUTH, Kind.COLOUR, 0.4))
    chances = [0.6 if region is Region.EYES else 0.1 for region in REGIONS]

    assert seen_facts(facts, chances, least=0.25) == facts[:1]
    assert seen_facts(facts, chances, least=0.0) == facts
    assert seen_facts(facts, chances, least=0.7) == ()
    assert seen_facts(None, chances, least=0.25) is None
