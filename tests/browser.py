"""The browser that tests drive: Debian's Chromium, which `.ci/browser` installs."""

import os
import shutil

#: In a container there is no user namespace to put the browser into, and no network that it should look for.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

#: The shell without windows comes first: it needs half of the processor time of the whole browser.
_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """Where it is. None: not here."""
    named = os.environ.get("BONAFIDE_TEST_CHROMIUM")
    return named or next(filter(None, map(shutil.which, _NAMES)), None)
