"""Pictures that are named on the command line: files whatever they are, and those of a folder by their names."""

from pathlib import Path

import typer

#: How files are called that a folder is looked through for. A file that is named itself is taken whatever it is called.
_ENDINGS = (
    *(".apng", ".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo"),
    *(".png", ".tif", ".tiff", ".webp"),
)


def pictures_of(place: Path) -> list[Path]:
    """The file, or the pictures in the folder and in those within it, by name."""
    if not place.is_dir():
        return [place]
    return sorted(file for file in place.rglob("*") if file.suffix.lower() in _ENDINGS and file.is_file())


def none_in(place: str | Path, found: list[Path]) -> bool:
    """Whether a folder held no picture; then it is said."""
    if not found:
        typer.echo(f"bonafide: there is no picture in {place}", err=True)
    return not found
