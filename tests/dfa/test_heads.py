"""What heads tell of a face beside the verdict: what is wrong with it, and a view, which knows no face."""

import pytest
import torch

from moderation.analysis import Region, Technique
from moderation.dfa.gpt.grounding.facts import MOST_ARTIFACTS, Kind
from moderation.dfa.gpt.heads import FURTHEST, REGIONS, VIEW, Heads, Wrong, findings


def faces(n: int, away: float = 0.0) -> torch.Tensor:
    """Features of faces that vary evenly around a middle, or lie away from it."""
    draw = torch.Generator().manual_seed(1)
    return torch.nn.functional.normalize(
        torch.randn(n, 64, generator=draw) + 3.0 + away * torch.arange(64) / 64, dim=1
    )


def test_a_view_is_a_few_halves_the_same_for_ever_and_of_unit_spread_where_it_was_learnt() -> None:
    torch.manual_seed(0)
    heads, others = Heads(layers=2, width=32), Heads(layers=2, width=32)
    for each in (heads, others):
        each.know(faces(400))

    views = heads.views(faces(400))

    assert views.shape == (400, VIEW)
    assert torch.equal(views, others.views(faces(400)))  # nothing of it was learnt or drawn anew
    assert torch.equal(2 * views, (2 * views).round())
    assert views.mean(dim=0).abs().max() < 0.3
    assert 0.5 < views.std() < 2
    assert views.abs().max() <= FURTHEST


def test_faces_of_another_kind_have_another_view() -> None:
    heads = Heads(layers=2, width=32)
    heads.know(faces(400))

    apart = (heads.views(faces(400, away=4.0)).mean(dim=0) - heads.views(faces(400)).mean(dim=0)).abs()

    assert apart.max() > 1


def wrong(regions: dict[Region, float], *, kind: Kind = Kind.SOFTER, strength: float = 0.7) -> Wrong:
    """Heads that give each region this probability of being changed."""
    sure = torch.tensor([[regions.get(region, 0.001) for region in REGIONS]])
    kinds = torch.zeros(1, len(REGIONS), len(Kind))
    kinds[..., list(Kind).index(kind)] = 1
    return Wrong(
        torch.zeros(1, 4), torch.zeros(1, 4), sure.logit(), kinds, torch.full((1, len(REGIONS)), strength)
    )


def found(regions: dict[Region, float], technique: Technique = Technique.FS) -> list[Region]:
    (touches,) = findings(wrong(regions), torch.tensor([list(Technique).index(technique)]))
    return [touch.region for touch in touches]


def test_the_regions_that_promise_most_are_named_surest_first() -> None:
    assert found({Region.NOSE: 0.9, Region.MOUTH: 0.05}) == [Region.NOSE]
    assert found({Region.NOSE: 0.7, Region.MOUTH: 0.8, Region.EYES: 0.6}) == [
        Region.MOUTH,
        Region.NOSE,
        Region.EYES,
    ]
    assert len(found(dict.fromkeys(REGIONS, 0.9))) == MOST_ARTIFACTS
    assert found({Region.NOSE: 0.1, Region.UNMAPPED: 0.9}) == [
        Region.NOSE
    ]  # the technique says whether it is all


def test_a_face_that_was_generated_whole_has_one_finding() -> None:
    assert found({Region.NOSE: 0.9}, Technique.EFS) == [Region.UNMAPPED]


def test_a_finding_says_what_kind_of_change_and_how_strong() -> None:
    (touches,) = findings(wrong({Region.NOSE: 0.9}, kind=Kind.COLOUR, strength=0.4), torch.tensor([0]))

    (touch,) = touches
    assert (touch.region, touch.kind) == (Region.NOSE, Kind.COLOUR)
    assert touch.strength == pytest.approx(0.4)
