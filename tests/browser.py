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


def find_chromium() -> str | None:
    """Where it is. None: not here."""
    named = os.environ.get("BONAFIDE_TEST_CHROMIUM")
    return (
        named or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    )
