"""A real browser, for pages."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import escape
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PHONE = 360
"""Pixels: the width of a small phone."""


def open_in_browser(page: Path, profile: Path, script: str = "") -> str:
    """The document after the browser has run it; `script` is run after the page's own."""
    shown = profile / f"opened-{page.name}"
    shown.write_text(page.read_text(encoding="utf-8") + f"<script>{script}</script>", encoding="utf-8")
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--disable-quic", "--no-first-run", "--disable-background-networking"),
            *("--disable-component-update", "--disable-sync"),
            *(
                f"--user-data-dir={profile / 'profile'}",
                "--enable-logging=stderr",
                "--virtual-time-budget=5000",
            ),
            *("--dump-dom", shown.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr, done.stderr  # neither errors nor warnings of the page
    return done.stdout


def overflow(page: Path, profile: Path, width: int = PHONE) -> int:
    """By how many pixels a page is wider than a window of that width: 0 where nobody has to scroll sideways.

    (The browser's own window cannot be made as narrow as a phone, a frame in it can.)
    """
    framed = profile / f"framed-{page.name}"
    content = escape(page.read_text(encoding="utf-8"))
    framed.write_text(
        f"<iframe srcdoc='{content.replace(chr(39), '&#x27;')}' width={width} height=800></iframe>"
    )
    script = """
      const frame = document.querySelector('iframe');
      const measure = () => {
        const root = frame.contentDocument.documentElement;
        document.title = `over ${root.scrollWidth - frame.contentWindow.innerWidth}`;
      };
      if (frame.contentDocument.readyState === 'complete' && frame.contentDocument.body.children.length) measure();
      frame.onload = measure;
    """
    document = open_in_browser(framed, profile, script)
    found = re.search("over (-?[0-9]+)", document)
    assert found is not None, document[:500]
    return max(0, int(found[1]))
