"""Two simple detectors trained on the manifest's own training split. A bundle must beat them to be worth its size.

A small CNN like MesoNet (Afchar et al., 2018, arXiv 1809.00888) sees pixels. A linear probe sees the frozen visual
tokens that the bundle's language model gets, so it shows what the language model adds. Both are seeded, see the same
crops as the bundle, and answer only DF-D.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  what everybody calls it

from moderation.analysis import Abstain, Label, Verdict, undetermined
from moderation.dfa.bench.ask import Judged, first_faces
from moderation.dfa.bench.manifest import Item
from moderation.dfa.gpt.bundle import Bundle
from moderation.dfa.gpt.detector import Detector
from moderation.dfa.gpt.engine.engine import normalisation, visual_tokens
from moderation.errors import SetupProblem

# B pictures, S side, P visual tokens, D their width.

#: Side of the small CNN's input, pixels.
SIDE = 128
#: Training needs this many pictures of either label.
FEWEST = 20


@dataclass(frozen=True)
class BaselinePlan:
    """How the small CNN is trained."""

    steps: int = 600
    batch: int = 32
    rate: float = 1e-3
    seed: int = 0


class SmallMeso(nn.Module):
    """Meso-4: four convolutions and two linear layers, 28,000 weights at 256 pixels."""

    def __init__(self) -> None:
        super().__init__()

        def block(before: int, after: int, kernel: int, pool: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False),
                nn.ReLU(),
                nn.BatchNorm2d(after),
                nn.MaxPool2d(pool),
            )

        self.see = nn.Sequential(
            block(3, 8, 3, 2), block(8, 8, 5, 2), block(8, 16, 5, 2), block(16, 16, 5, 4)
        )
        self.judge = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(16 * (SIDE // 32) ** 2, 16),
            nn.LeakyReLU(0.1),
            nn.Dropout(0.5),
            nn.Linear(16, 1),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, SIDE, SIDE) in [0, 1] to logits (B,)."""
        return self.judge(self.see(pixels).flatten(1)).squeeze(1)


def crops_of(detector: Detector, items: Sequence[Item]) -> tuple[list[Item], np.ndarray]:
    """The pictures with a face, and the crops of their largest faces as the bundle sees them, (N, S, S, 3) uint8."""
    faces, side = first_faces(detector, items), detector.image_size
    pixels = np.array([crop.pixels for _, crop in faces], np.uint8).reshape(-1, side, side, 3)
    return [item for item, _ in faces], pixels


def baselines(
    detector: Detector,
    training: Sequence[Item],
    tested: Sequence[Item],
    plan: BaselinePlan,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, list[Judged]]:
    """Each baseline's verdicts on the tested pictures. Raise SetupProblem when training data are too few."""
    labels = [item.deepfake for item in training]
    if min(sum(labels), len(labels) - sum(labels)) < FEWEST:
        raise SetupProblem(
            f"Baselines need a training split with at least {FEWEST} pictures of either label: give its manifest too."
        )
    progress("cropping for the baselines")
    learnt, pixels = crops_of(detector, training)
    asked, seen = crops_of(detector, tested)
    truth = np.array([item.deepfake for item in learnt])
    progress("training the small CNN")
    meso = train_meso(pixels, truth, plan)
    progress("fitting the linear probe")
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    probe.fit(visual_features(detector.bundle, pixels), truth)
    probed = probe.predict_proba(visual_features(detector.bundle, seen))[:, 1] if len(seen) else np.zeros(0)
    return {
        "small CNN (MesoNet-like)": _judged(tested, asked, meso_scores(meso, seen)),
        "linear probe on the bundle's visual tokens": _judged(tested, asked, probed),
    }


def _judged(tested: Sequence[Item], asked: Sequence[Item], scores: np.ndarray) -> list[Judged]:
    known = {item.file: float(score) for item, score in zip(asked, scores, strict=True)}
    return [Judged(item, _verdict(known.get(item.file))) for item in tested]


def _verdict(score: float | None) -> Verdict:
    """A baseline only scores. It has no zone, and abstains only without a face."""
    if score is None:
        return undetermined(Abstain.NO_FACE)
    return Verdict(Label.DEEPFAKE if score >= 0.5 else Label.BONA_FIDE, score=score)


# --- the small CNN ---


def train_meso(pixels: np.ndarray, labels: np.ndarray, plan: BaselinePlan) -> SmallMeso:
    """Train on balanced batches, flipped at random. The same seed gives the same weights on the same machine."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        model = SmallMeso()
        optimizer = torch.optim.Adam(model.parameters(), lr=plan.rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, plan.steps)
        model.train()
        for rows in _balanced(labels, plan):
            seen = _as_input(pixels[rows])
            if torch.rand(()) < 0.5:
                seen = seen.flip(3)
            loss = F.binary_cross_entropy_with_logits(model(seen), torch.from_numpy(labels[rows]).float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def _balanced(labels: np.ndarray, plan: BaselinePlan) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(plan.seed)
    forged, bona_fide = np.flatnonzero(labels), np.flatnonzero(~labels)
    half = plan.batch // 2
    for _ in range(plan.steps):
        yield np.concatenate([rng.choice(forged, half), rng.choice(bona_fide, half)])


def _as_input(pixels: np.ndarray) -> Tensor:
    """(B, S, S, 3) uint8 to (B, 3, SIDE, SIDE) in [0, 1]."""
    tensor = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255
    return F.interpolate(tensor, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)


@torch.inference_mode()
def meso_scores(model: SmallMeso, pixels: np.ndarray) -> np.ndarray:
    batches = [model(_as_input(pixels[start : start + 64])).sigmoid() for start in range(0, len(pixels), 64)]
    return torch.cat(batches).numpy() if batches else np.zeros(0)


# --- the linear probe ---


@torch.inference_mode()
def visual_features(bundle: Bundle, pixels: np.ndarray) -> np.ndarray:
    """Mean and standard deviation of the visual tokens that the language model gets, (N, 2 D)."""
    model, image = bundle.model, bundle.spec.image
    device, dtype = next(model.parameters()).device, model.lm_head.weight.dtype
    scale, shift = normalisation(image, device)
    features: list[Tensor] = []
    for start in range(0, len(pixels), 16):
        batch = torch.from_numpy(np.ascontiguousarray(pixels[start : start + 16])).to(device)
        seen = batch.permute(0, 3, 1, 2).float() * scale + shift  # (B, 3, S, S)
        tokens = visual_tokens(model, seen.to(dtype)).float()  # (B, P, D)
        features.append(torch.cat([tokens.mean(dim=1), tokens.std(dim=1)], dim=1).cpu())
    return torch.cat(features).numpy()
