"""The documentation as a site: `make docs`, or `python docs/build.py [--out build/docs]`.

The pages are those of this repository, laid out side by side; the pages on the API and on the commands are made of the
code. Every link must lead to a page or a file, every anchor to a heading, and nothing may be loaded from elsewhere.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

#: Pages that lie outside of docs/, by their place in the site.
PAGES = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "runbook.md": "deploy/RUNBOOK.md",
    "results.md": "benchmarks/RESULTS.md",
    "model-card.md": "moderation/dfa/bundles/mini/MODEL_CARD.md",
}
#: What a page in the repository names as a link: `](target)`, outside of code.
_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)")
#: Search from a disk needs a worker, which browsers only allow to a server: the theme asks unpkg.com for this script.
_SHIM = re.compile(r'"https://unpkg\.com/iframe-worker/shim"')
_LIST_IN_TEXT = re.compile(r"<p>[^<]*\n(?:[-*]|\d+\.) ")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build/docs")
    site = build(parser.parse_args().out.resolve())
    pages, size = sorted(site.rglob("*.html")), sum(path.stat().st_size for path in site.rglob("*"))
    for page in pages:
        print(page.relative_to(site))
    print(f"{len(pages)} pages, {size / 2**20:.1f} MB; begin with {site / 'index.html'}")


def build(out: Path) -> Path:
    """The folder with the site. Ends with a sentence when a link leads nowhere or something comes from outside."""
    shutil.rmtree(out, ignore_errors=True)
    lay_out(out / "pages")
    shutil.copy(DOCS / "zensical.toml", out)
    # Its warnings are marked character by character where it thinks that the terminal is one.
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    built = subprocess.run(
        command, cwd=out, env={**os.environ, "NO_COLOR": "1"}, capture_output=True, text=True, check=False
    )
    if built.returncode:
        sys.exit(built.stdout + built.stderr)
    shutil.copytree(DOCS / "site", out / "site/assets/offline")
    for page in (out / "site").rglob("*.html"):
        up = "../" * (len(page.relative_to(out / "site").parts) - 1)
        page.write_text(_SHIM.sub(f'"{up}assets/offline/iframe-worker.js"', page.read_text()))
    wrong = [*faults(out / "site")]
    if wrong:
        sys.exit("\n".join(wrong))
    return out / "site"


# --- pages


def lay_out(folder: Path) -> None:
    """All pages of the site as Markdown, and the files that they name."""
    places = {ROOT / source: name for name, source in PAGES.items()}
    places |= {page: str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    for source, name in places.items():
        _write(folder / name, _with_links_of_the_site(source, name, places, folder))
    _write(folder / "api.md", api_page(_openapi()))
    _write(folder / "commands.md", commands_page())


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _with_links_of_the_site(source: Path, name: str, places: dict[Path, str], folder: Path) -> str:
    """The page's text. What is no page is copied beside them: the site needs no repository."""

    def place(found: re.Match[str]) -> str:
        target = (source.parent / found[1]).resolve()
        if target not in places:
            if not target.is_file():
                sys.exit(f"{source.relative_to(ROOT)}: {found[1]} is no file")
            kept = target.relative_to(DOCS if target.is_relative_to(DOCS) else ROOT)
            (folder / kept).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(target, folder / kept)
            return os.path.relpath(kept, Path(name).parent)
        return os.path.relpath(places[target], Path(name).parent)

    # Text in fences is text: only what is between them has links.
    parts = re.split(r"(^```.*?^```$)", source.read_text(), flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else _LINK.sub(place, part) for part in parts)


def _openapi() -> dict[str, Any]:
    from moderation.settings import Settings
    from moderation.web.app import create_app

    needed = {"s3_buckets": "flagged", "s3_access_key_id": "a", "s3_secret_access_key": "b"}
    return create_app(Settings.model_validate(needed)).openapi()


def commands_page() -> str:
    """Every command, as `--help` tells of it."""
    from typer import Context
    from typer.cli import get_docs_for_click
    from typer.main import get_command

    from moderation.cli.main import app

    command = get_command(app)
    text = get_docs_for_click(obj=command, ctx=Context(command), name="bonafide", title="Commands")
    return re.sub(r"^(\*\*\w+\*\*):$", r"\1", text, flags=re.MULTILINE)


# --- the API


def api_page(document: dict[str, Any]) -> str:
    """An OpenAPI document as a page: every call, then every shape."""
    info = document["info"]
    head = (
        f"# HTTP API\n\n{info['summary']} Version {info['version']}, made of its OpenAPI document, which a"
        " running system shows at `/docs` and gives to machines at `/openapi.json`. How to go about"
        " it: [platforms](platform.md).\n\n"
        "Calls take a key: `Authorization: Bearer bf_…`. What goes wrong is a [Problem](#problem).\n"
    )
    calls = [
        _call(method.upper(), path, call)
        for path, methods in document["paths"].items()
        for method, call in methods.items()
    ]
    told = [_call("POST", name, hook["post"]) for name, hook in document.get("webhooks", {}).items()]
    shapes = [_shape(name, schema) for name, schema in document["components"]["schemas"].items()]
    parts = [head, "## Calls\n", *calls, "## Webhooks\n", *told, "## Shapes\n", *shapes]
    return "\n".join(parts)


def _call(method: str, path: str, call: dict[str, Any]) -> str:
    lines = [f"### {method} {path}\n", f"**{call['summary']}.** {_line(call.get('description', ''))}\n"]
    rows = [
        (
            f"`{one['name']}`",
            f"{one['in']}{', needed' if one.get('required') else ''}",
            *_field(one["schema"]),
        )
        for one in call.get("parameters", [])
    ]
    lines += _table(("Parameter", "In", "Is", "Meaning"), rows)
    for kind, content in call.get("requestBody", {}).get("content", {}).items():
        lines.append(f"Body, `{kind}`: {_kind(content.get('schema', {}))}\n")
    rows = [
        (code, ", ".join(_kind(content.get("schema", {})) for content in answer.get("content", {}).values()),
         _line(answer.get("description", "")).replace("Successful Response", "Done"))
        for code, answer in sorted(call["responses"].items())
    ]  # fmt: skip
    return "\n".join([*lines, *_table(("Status", "Answer", "Means"), rows)])


def _shape(name: str, schema: dict[str, Any]) -> str:
    lines = [f"### {name}\n"]
    if schema.get("description"):
        lines.append(f"{_line(schema['description'])}\n")
    needed = schema.get("required", [])
    rows = [
        (f"`{field}`", "needed" if field in needed else "", *_field(one))
        for field, one in schema.get("properties", {}).items()
    ]
    if not rows:
        lines.append(f"{_kind(schema)}\n")
    return "\n".join([*lines, *_table(("Field", "", "Is", "Meaning"), rows)])


def _field(schema: dict[str, Any]) -> tuple[str, str]:
    """What a value is, and what it means."""
    limits = {
        "minLength": "characters: {} or more", "maxLength": "{} at most", "minimum": "from {}", "maximum": "to {}",
        "minItems": "items: {} or more", "maxItems": "{} at most",
    }  # fmt: skip
    inner = [schema, *schema.get("anyOf", [])]
    said = [words.format(one[key]) for one in inner for key, words in limits.items() if key in one]
    if schema.get("default") is not None:
        said.append(f"`{schema['default']}` when it is left out")
    return ", ".join([_kind(schema), *said]), _line(schema.get("description", ""))


def _kind(schema: dict[str, Any]) -> str:
    """A type in words; a shape is a link to where it stands."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    for together in ("anyOf", "oneOf"):
        if together in schema:
            return " or ".join(dict.fromkeys(_kind(one) for one in schema[together]))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return schema.get("format") or schema.get("type") or "anything"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    if not rows:
        return []
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# --- what a site must hold


class _Page(HTMLParser):
    """The names that a page has, and what it leads to or loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.leads_to: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.leads_to.append(given["href"])
        elif tag == "link" and given.get("rel") in ("stylesheet", "icon", "preconnect", "preload"):
            self.loads.append(given["href"])
        elif "src" in given:
            self.loads.append(given["src"])


def faults(site: Path) -> Iterator[str]:
    """In sentences, every link that leads nowhere, whatever comes from outside, and lists that are none."""
    pages = {path: _Page(path.read_text()) for path in site.rglob("*.html")}
    for path, page in pages.items():
        name = path.relative_to(site)
        yield from (
            f"{name}: {address} comes from outside" for address in page.loads if urlsplit(address).netloc
        )
        # The page for what is not found is served for any address: its own are absolute.
        if name.name == "404.html":
            continue
        for address in [*page.leads_to, *page.loads]:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                yield f"{name}: {address} leads nowhere"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                yield f"{name}: {address} has no such heading"
        if _LIST_IN_TEXT.search(path.read_text()):
            yield f"{name}: a list follows a paragraph without an empty line between them"
    for sheet in site.rglob("*.css"):
        if re.search(r"(url\(|@import )[\"']?(https?:)?//", sheet.read_text()):
            yield f"{sheet.relative_to(site)}: something comes from outside"


if __name__ == "__main__":
    main()
