"""What heads tell of a face beside the verdict: a view, which shows that pictures change and knows no face."""

import torch

from moderation.dfa.gpt.heads import FURTHEST, VIEW, Heads


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
