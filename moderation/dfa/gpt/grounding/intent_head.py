"""Reads intents with the first layers of a language model, adapted to reading, and a small attention over their states.

Low-rank terms are added to the layers while they read a question, and at no other time: what the model says of faces
stays as it was. Terms and attention are trained together (`train/intents.py`).

N questions, T tokens, K depths, E embedding width, S numbers of a token, I intents.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  what everybody calls it

from moderation.dfa.gpt.engine.low_rank import Adapter, LowRank

#: Heads of the attention.
_HEADS = 4
_ATTENDING, _DOWN, _UP = "attending.", ".down", ".up"


class Attending(nn.Module):
    """One layer of a transformer over a question's states, pooled by learnt queries (Lee et al., ICML 2019)."""

    def __init__(
        self, width: int, intents: int, *, inner: int = 192, queries: int = 8, dropout: float = 0.3
    ) -> None:
        """`width` is S: of one token the states of some depths, beside each other."""
        super().__init__()
        self.middle, self.spread = (nn.Buffer(torch.zeros(2, width)), nn.Buffer(torch.ones(2, width)))
        self.tokens, self.end = nn.Linear(width, inner), nn.Linear(width, inner)
        self.mixing = nn.TransformerEncoderLayer(
            inner, _HEADS, 2 * inner, dropout, batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(inner)
        self.queries = nn.Parameter(torch.randn(queries, inner) / inner**0.5)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(inner * (queries + 2), intents)

    def forward(self, tokens: Tensor, present: Tensor, end: Tensor) -> Tensor:
        """(N, I) logits from states of tokens (N, T, S), those that are present (N, T), and last states (N, S)."""
        tokens, end = (
            (states - middle) / spread
            for states, middle, spread in zip((tokens, end), self.middle, self.spread, strict=True)
        )
        mixed = self.mixing(self.tokens(tokens), src_key_padding_mask=~present)
        fit = torch.einsum("qd,ntd->nqt", self.queries, self.norm(mixed))
        shares = fit.masked_fill(~present[:, None], -torch.inf).softmax(dim=-1)
        asked = torch.einsum("nqt,ntd->nqd", shares, mixed).flatten(1)
        mean = (mixed * present[..., None]).sum(dim=1) / present.sum(dim=1, keepdim=True)
        return self.out(self.dropout(F.gelu(torch.cat([asked, mean, self.end(end)], dim=1))))


@dataclass(frozen=True, eq=False)
class IntentHead:
    """Reads intents, "family/form", from the states of a language model."""

    #: After how many layers it reads, ascending.
    depths: tuple[int, ...]
    intents: tuple[str, ...]
    attending: Attending
    #: What the layers are read with.
    adapter: Adapter = field(default_factory=dict[str, LowRank])

    def scores(self, states: Tensor, question: slice) -> dict[str, float]:
        """Each intent's logit, from the states (K, T, E) of a text that ends at the answer's position.

        `question` is the place of the question's tokens.
        """
        tokens, end = (beside(part.float())[None] for part in (states[:, question], states[:, -1:]))
        with torch.inference_mode():
            present = torch.ones(tokens.shape[:2], dtype=torch.bool)
            (logits,) = self.attending(tokens, present, end[:, 0])
        return dict(zip(self.intents, logits.tolist(), strict=True))

    @property
    def width(self) -> int:
        """E: the embedding width of the language model that it reads."""
        return self.attending.tokens.in_features // len(self.depths)


def beside(states: Tensor) -> Tensor:
    """(K, T, E) to (T, S): of each token the states after all depths."""
    return states.permute(1, 0, 2).flatten(1)


def save_intents(head: IntentHead, file: Path) -> None:
    """Write a head at half precision."""
    held = head.attending.state_dict()
    tensors = {f"{_ATTENDING}{name}": value for name, value in held.items()}
    for name, term in head.adapter.items():
        tensors |= {f"{name}{_DOWN}": term.down, f"{name}{_UP}": term.up}
    save_file(
        {name: value.detach().half().contiguous() for name, value in tensors.items()},
        file,
        metadata={"intents": json.dumps(head.intents), "depths": json.dumps(head.depths)},
    )


def load_intents(file: Path) -> IntentHead:
    """Read a head. Raise OSError, SafetensorError, KeyError, ValueError or RuntimeError when the file is no head."""
    with safe_open(file, framework="pt") as stored:
        about = stored.metadata() or {}
        names = cast("list[str]", stored.keys())
        tensors = {name: stored.get_tensor(name).float() for name in names}
    intents = tuple(json.loads(about["intents"]))
    held = {
        name.removeprefix(_ATTENDING): value for name, value in tensors.items() if name.startswith(_ATTENDING)
    }
    adapted = [name.removesuffix(_DOWN) for name in tensors if name.endswith(_DOWN)]
    return IntentHead(
        depths=tuple(json.loads(about["depths"])),
        intents=intents,
        attending=_attending(held, len(intents)),
        adapter={name: LowRank(tensors[f"{name}{_DOWN}"], tensors[f"{name}{_UP}"]) for name in adapted},
    )


def _attending(held: Mapping[str, Tensor], intents: int) -> Attending:
    inner, width = held["tokens.weight"].shape
    module = Attending(width, intents, inner=inner, queries=len(held["queries"]))
    module.load_state_dict(dict(held))
    return module.eval().requires_grad_(requires_grad=False)
