"""Low-rank terms beside a language model's linear layers, for one pass and no longer (LoRA, Hu et al., ICLR 2022).

An adapter that always applies is merged into the weights when a bundle is loaded. One that only some texts are read
with is added while they are read.
"""

from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class LowRank:
    """What is added to a linear layer of I inputs and O outputs: a matrix of rank R."""

    down: Tensor  # (R, I)
    up: Tensor  # (O, R)

    def __call__(self, x: Tensor) -> Tensor:
        """(..., I) to (..., O), in the type and on the device of `x`."""
        return nn.functional.linear(nn.functional.linear(x, self.down.to(x)), self.up.to(x))


#: By the names of linear layers among a model's layers: "4.self_attn.q_proj".
Adapter = Mapping[str, LowRank]


@contextmanager
def adapted(layers: nn.ModuleList, adapter: Adapter) -> Generator[None]:
    """Within it, these linear layers add their low-rank terms. Raise AttributeError for one that is not there."""
    with ExitStack() as added:
        for name, term in adapter.items():
            hook = layers.get_submodule(name).register_forward_hook(partial(_added, term))
            added.callback(hook.remove)
        yield


def _added(term: LowRank, _layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output + term(inputs[0])
