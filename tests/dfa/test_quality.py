"""Quality says nothing: the two faces of a two hold the same detail and the same light."""

import numpy as np
import pytest

from moderation.dfa.bench.estimates import auc
from moderation.dfa.instruct.examples import Examples
from moderation.dfa.instruct.forgery.photometry import softened
from moderation.dfa.instruct.quality import blurred_to, detail, relit, same_light, same_sharpness
from tests.dfa.drawn_faces import a_pool, a_portrait


@pytest.mark.parametrize("blur", [0.6, 1.2, 2.0])
def test_the_sharper_one_is_blurred_until_both_are_alike(blur: float) -> None:
    sharp, soft = a_portrait(1).pixels, softened(a_portrait(2).pixels, blur)

    one, other = same_sharpness(sharp, soft)

    assert detail(sharp) > 1.3 * detail(soft)
    assert detail(one) == pytest.approx(detail(soft), rel=0.08)
    np.testing.assert_array_equal(other, soft)


def test_a_picture_that_is_soft_already_stays_as_it_is() -> None:
    pixels = softened(a_portrait(1).pixels, 2.0)

    assert blurred_to(pixels, 2 * detail(pixels)) is pixels


def test_light_goes_over_from_one_to_the_other() -> None:
    dark, bright = (a_portrait(1).pixels * 0.4).astype(np.uint8), a_portrait(2).pixels

    lit = relit(dark, bright, 1.0)
    pair = same_light(dark, bright, np.random.default_rng(0))

    assert abs(float(lit.mean()) - float(bright.mean())) < 12
    assert abs(float(pair[0].mean()) - float(pair[1].mean())) < abs(float(dark.mean()) - float(bright.mean()))


@pytest.mark.slow
def test_sharpness_tells_no_forgery_of_the_lab() -> None:
    drawn, rng = Examples(a_pool(), "train"), np.random.default_rng(3)

    twos = [drawn.two(rng) for _ in range(60)]

    scores = np.array([detail(each.pixels) for two in twos for each in two])
    labels = np.array([each.deepfake for two in twos for each in two])
    assert auc(scores, labels) == pytest.approx(0.5, abs=0.08)
