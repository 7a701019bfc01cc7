"""A real browser, for pages."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def open_in_browser(page: Path, profile: Path, script: str = "") -> str:
    """The document after the browser has run it; `script` is run after the page's own."""
    shown = profile / f"opened-{page.name}"
    shown.write_text(page.read_text(encoding="utf-8") + f"<script>{script}</script>", encoding="utf-8")
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
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
