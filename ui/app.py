"""What a Space runs: `python ui/app.py` from a plain checkout, with nothing but requirements.txt installed.

On a Space anybody may look in, so visitors see only their own jobs and may ask for what `videodiff_ui.public` allows.
Where GPUs are lent call by call (the package `spaces` is there), jobs run in this process; elsewhere a worker does
them.
Without a Space around it this is `videodiff ui --no-open`.
"""

import os
import sys
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "ui")]

from videodiff.jobs import data_folder  # noqa: E402 - found only with the lines above
from videodiff_ui.public import Caretaker, Here, PublicStore, do_one  # noqa: E402
from videodiff_ui.server import Options, Runner, serve  # noqa: E402

GPU_SECONDS = 120
"""How long one job may have a lent GPU."""


def main() -> None:
    """Serve until the process ends."""
    if "SPACE_ID" not in os.environ:
        serve(data_folder(), Options(), show="no")
        return
    names = frozenset(filter(None, [os.environ.get("SPACE_HOST", "").lower()]))
    options = Options(host="0.0.0.0", public=True, names=names, max_upload=50_000_000, quota=5_000_000_000)
    serve(Path(tempfile.mkdtemp(prefix="videodiff-")), options, show="no", store=PublicStore, runner=runner())


def runner() -> Runner:
    """Who does the jobs: this process with a lent GPU, or a worker."""
    if find_spec("spaces") is None:
        return Caretaker
    import spaces

    lent = spaces.GPU(duration=GPU_SECONDS)(do_one)

    def here(store: PublicStore, device: str) -> Here:
        return Here(store, lent)

    return here


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
