"""Checkpoints from the Hugging Face Hub: looked at first, fetched only when asked, exactly the revision looked at.

This is the only place of the app that speaks with another machine, and only after a button was pressed. No
token is sent.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from videodiff.errors import CheckpointError, OutOfResources

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
WANTED = re.compile(r"config\.json|model[\w.-]*\.safetensors|README\.md")
MOST_BYTES = 20_000_000_000
SECONDS = 15


@dataclass(frozen=True)
class Offer:
    """What a repository holds for us: files and their bytes, under which licence ("" if not stated), at which commit
    (`revision`)."""

    repository: str
    revision: str
    files: tuple[str, ...]
    bytes: int
    licence: str

    @property
    def name(self) -> str:
        """The name it will have here."""
        return self.repository.split("/")[1][:60]


def look(repository: str) -> Offer:
    """Ask the Hub what a repository holds; nothing is fetched yet."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    if not NAME.fullmatch(repository):
        raise CheckpointError(f"{repository[:80]!r} is no repository; write owner/name")
    try:
        info = HfApi(token=False).model_info(repository, files_metadata=True, timeout=SECONDS)
    except (OSError, HTTPError) as error:
        raise CheckpointError(_why(repository, error)) from error
    found = {file.rfilename: file.size or 0 for file in info.siblings or () if WANTED.fullmatch(file.rfilename)}
    if "config.json" not in found or not any(name.endswith(".safetensors") for name in found):
        raise CheckpointError(
            f"{repository} has no config.json with model.safetensors; it is no checkpoint of videodiff"
        )
    if sum(found.values()) > MOST_BYTES:
        raise CheckpointError(
            f"{repository} takes {sum(found.values()) / 1e9:.0f} GB, more than {MOST_BYTES / 1e9:.0f} GB"
        )
    licence = str(getattr(info.card_data, "license", None) or "")
    return Offer(repository, str(info.sha), tuple(sorted(found)), sum(found.values()), licence[:60])


@contextmanager
def fetched(offer: Offer, cache: Path) -> Iterator[list[Path]]:
    """The files of an offer in a folder below `cache`, which goes when the block ends."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HTTPError

    if shutil.disk_usage(cache).free < 2 * offer.bytes:
        raise OutOfResources(f"{offer.repository} takes {offer.bytes / 1e9:.1f} GB, twice while it is added; make room")
    with tempfile.TemporaryDirectory(dir=cache, prefix="hub-") as folder:
        try:
            for name in offer.files:
                hf_hub_download(offer.repository, name, revision=offer.revision, local_dir=folder, token=False)
        except (OSError, HTTPError) as error:
            raise CheckpointError(_why(offer.repository, error)) from error
        yield [Path(folder, name) for name in offer.files]


def _why(repository: str, error: Exception) -> str:
    """What to tell a person of an answer, or of none."""
    answer = getattr(error, "response", None)
    if answer is None:
        kind = type(error).__name__
        return f"the Hub cannot be reached ({kind}): this machine seems to be offline; add a folder or files instead"
    if answer.status_code in (401, 403, 404):
        return f"the Hub shows no public repository {repository!r}; is the name right? Gated ones are fetched by hand"
    return f"the Hub answered {answer.status_code}; try again later"
