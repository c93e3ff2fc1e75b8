"""Showing the app: in a window of its own where a Chromium-family browser is installed, else in the default browser."""

import shutil
import subprocess
import sys
import webbrowser
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge", "brave-browser")
MAC = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
WINDOWS = (
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
    r"C:\Program Files\Microsoft\Edge\Application\msedge.exe",
)


def browser() -> str | None:
    """The program of a Chromium-family browser, or None."""
    for name in BROWSERS:
        found = shutil.which(name)
        if found:
            return found
    places = {"darwin": MAC, "win32": WINDOWS}.get(sys.platform, ())
    return next((place for place in places if Path(place).is_file()), None)


def command(program: str, url: str, profile: Path) -> list[str]:
    """An app window: no address bar, and a profile of its own, so that it is not a tab of a running browser."""
    return [program, f"--app={url}", f"--user-data-dir={profile}", "--no-first-run", "--no-default-browser-check"]


def show(url: str, profile: Path, tab: bool = False) -> bool:
    """Open the app; `tab` asks for the default browser. False where no browser could be found."""
    program = None if tab else browser()
    if program is None:
        return webbrowser.open(url)
    profile.mkdir(parents=True, exist_ok=True)
    # Its own session: closing the terminal, or stopping the server, leaves the window to say that the server is gone.
    subprocess.Popen(
        command(program, url, profile),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return True
