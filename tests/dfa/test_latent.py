"""The decoder of a latent diffusion model: fetched once, checked, and another drawer of the lab."""

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moderation.dfa.instruct.forgery.latent import (
    CELL,
    CODE,
    FILES,
    LatentRedrawer,
    fetch_decoder,
    load_decoder,
)
from moderation.dfa.instruct.forgery.redraw import as_input

PORTRAIT = Path(__file__).parents[2] / "moderation" / "samples" / "portrait-1.jpg"
SIDE = 64


@pytest.fixture
def published(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """An address that hands out an autoencoder of chance, in the published layout, and its digests."""
    folder = tmp_path / "published"
    folder.mkdir()
    torch.manual_seed(0)
    model = LatentRedrawer()
    for name, part in zip(FILES, (model.encoder, model.decoder), strict=True):
        torch.save({key: value.half() for key, value in part.state_dict().items()}, folder / name)
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/{{name}}", digests
    server.shutdown()
    server.server_close()


def test_it_is_fetched_checked_and_then_draws(published: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    source, digests = published

    assert fetch_decoder(tmp_path / "cache", source=source, files=digests)

    model = load_decoder(tmp_path / "cache", digests)
    assert model is not None
    face = as_input(np.asarray(Image.open(PORTRAIT).convert("RGB").resize((SIDE, SIDE)))[None])
    noise = torch.randn((1, CODE, SIDE // CELL, SIDE // CELL), generator=torch.Generator().manual_seed(0))
    calm, restless, again = (model(face, unrest * noise) for unrest in (0.0, 0.5, 0.0))
    assert calm.shape == face.shape
    assert calm.abs().max() <= 1
    assert (calm != restless).any()
    torch.testing.assert_close(calm, again, rtol=0, atol=0)


def test_another_file_than_was_looked_into_is_not_kept(
    published: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    source, _ = published

    assert not fetch_decoder(tmp_path / "cache", source=source)

    assert load_decoder(tmp_path / "cache") is None


def test_without_a_way_to_it_the_lab_is_told(tmp_path: Path) -> None:
    assert not fetch_decoder(tmp_path, source="http://127.0.0.1:9/{name}")


def test_a_damaged_file_is_fetched_again(published: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    source, digests = published
    fetch_decoder(tmp_path, source=source, files=digests)
    (tmp_path / next(iter(digests))).write_bytes(b"cut")

    assert load_decoder(tmp_path, digests) is None
    assert fetch_decoder(tmp_path, source=source, files=digests)
    assert load_decoder(tmp_path, digests) is not None
