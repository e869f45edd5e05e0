"""Pictures named on the command line: a file whatever its name, and a folder's files by their endings."""

from collections.abc import Iterable
from pathlib import Path

from moderation.cli.printing import complain

#: Endings that a picture in a folder has. A file that is named itself may have any.
_ENDINGS = (
    ".apng", ".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".png",
    ".tif", ".tiff", ".webp",
)  # fmt: skip


def pictures_of(places: Iterable[Path]) -> tuple[list[Path], bool]:
    """The files themselves, and the pictures in folders and their subfolders, sorted by name.

    Also whether a folder held no picture. Such a folder is printed.
    """
    found: list[Path] = []
    empty = False
    for place in places:
        inside = _inside(place) if place.is_dir() else [place]
        if not inside:
            complain(f"there is no picture in {place}")
            empty = True
        found += inside
    return found, empty


def _inside(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in _ENDINGS and file.is_file())
