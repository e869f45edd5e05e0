"""A close-up: the middle of a face's crop, enlarged. The heads of a bundle may read one beside the whole crop.

B pictures, C channels, S pixels of a side, P patches.
"""

from torch import Tensor
from torch.nn import functional as F  # noqa: N812  what everybody calls it


def close_up(pictures: Tensor, share: float) -> Tensor:
    """The middle of square pictures (B, C, S, S), `share` of their side, enlarged to their size."""
    middle = _middle(pictures, share).float()
    return F.interpolate(middle, size=pictures.shape[-2:], mode="bicubic", antialias=True).to(pictures.dtype)


def hidden_in_close_up(hidden: Tensor, share: float, *, size: int) -> Tensor:
    """The patches (B, P) of close-ups that show any of the `hidden` patches (B, P) of crops of `size` pixels."""
    side = round(hidden.shape[1] ** 0.5)
    pixels = F.interpolate(hidden.view(-1, 1, side, side).float(), size=(size, size))
    wide = F.max_pool2d(pixels, 5, stride=1, padding=2)  # interpolation carries a pixel two further
    return F.adaptive_max_pool2d(_middle(wide, share), side).flatten(1) > 0


def _middle(pictures: Tensor, share: float) -> Tensor:
    size = pictures.shape[-1]
    inset = round(size * (1 - share) / 2)
    return pictures[..., inset : size - inset, inset : size - inset]
