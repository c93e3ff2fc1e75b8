"""The networks there are: shipped, trained here, and added by path, by upload or from the Hub."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr

from videodiff import shelf
from videodiff.errors import CheckpointError, UserError
from videodiff.jobs import Store
from videodiff.shelf import Description
from videodiff_ui import card, cards, hub
from videodiff_ui.cards import button, facts, notice, panel
from videodiff_ui.context import QUIET, App, ask_command, told
from videodiff_ui.html import Html, join, message, tag, word
from videodiff_ui.words import _

SECONDS = 120
"""How long a look at a checkpoint added by someone may take."""


@dataclass(frozen=True)
class Entry:
    """A checkpoint in the list: where it comes from (shipped, trained, added), and what a request calls it."""

    origin: str
    name: str
    value: str
    folder: Path


def entries(store: Store) -> list[Entry]:
    """All checkpoints a request can use, by the names of their folders; of a training run, its best state."""
    found = [Entry("shipped", name, name, shelf.find(name)) for name in shelf.names()]
    for origin, home in (("trained", store.runs), ("added", store.checkpoints)):
        for folder in sorted(home.iterdir()):
            if folder.is_dir() and not folder.name.startswith("."):
                try:
                    found.append(Entry(origin, folder.name, str(folder), shelf.find(str(folder))))
                except CheckpointError:  # a run that has not saved a state yet
                    continue
    return found


def choices(store: Store) -> list[tuple[str, str]]:
    """(label, value) of every checkpoint, for the field of that name in a form."""
    return [
        (entry.name if entry.origin == "shipped" else f"{entry.name} ({entry.origin})", entry.value)
        for entry in entries(store)
    ]


def verify(folder: Path) -> None:
    """Load a checkpoint in a process of its own, which alone would suffer; CheckpointError with what is wrong."""
    try:
        result = ask_command("info", "--json", str(folder), seconds=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise CheckpointError(f"{folder} takes longer than {SECONDS} s to load; it is not added") from error
    if result.returncode:
        lines = result.stderr.strip().splitlines() or ["it ends the process that loads it"]
        raise CheckpointError(lines[-1].removeprefix("videodiff: "))


def add(store: Store, files: list[Path], name: str) -> Path:
    """Put a checkpoint on the shelf of the store: its files are checked, copied, tried, and then appear at once."""
    if name in shelf.names():
        raise UserError(f"{name!r} is the name of a shipped checkpoint; choose another name")
    store.check_room()
    return shelf.add(files, store.checkpoints, name, verify)


def build(app: App) -> None:
    """The components of the page, inside its tab."""
    opened = gr.State("")
    trashed = gr.State("")
    said = panel("vd-models-said")
    listed = panel("vd-models-list")

    def shown(opened: str) -> Html:
        return tag("ul", *(_entry(entry, opened, app.public) for entry in entries(app.store)), class_="vd-models")

    def clicked(opened: str, trashed: str, event: gr.EventData) -> Any:
        """Open a card, remove an added checkpoint, or take it back."""
        act, key, message = str(event.act), str(event.key), Html("")
        try:
            if act == "card":
                opened = "" if opened == key else key
            elif app.public:
                raise UserError("checkpoints of a public server cannot be changed from its page")
            elif act == "remove":
                trashed = str(remove(app.store, key))
                message = notice(word("models.removed", name=key), " ", button("undo", trashed, word("library.undo")))
            elif act == "undo" and trashed:
                put_back(app.store, Path(trashed))
                trashed = ""
        except UserError as error:
            message = notice(str(error), kind="error")
        return opened, trashed, message, shown(opened)

    for part in (said, listed):
        part.click(told(clicked), [opened, trashed], [opened, trashed, said, listed], **QUIET)
    if not app.public:
        for way in WAYS:
            with gr.Accordion(_(f"models.by_{way.name}"), open=False, elem_id=f"vd-models-by-{way.name}"):
                way.build(app, said, lambda: shown(""), listed)
    app.tabs.select(shown, opened, listed, **QUIET)


def remove(store: Store, name: str) -> Path:
    """Move an added checkpoint to the trash; where it lies there."""
    if name not in {entry.name for entry in entries(store) if entry.origin == "added"}:
        raise UserError(f"no added checkpoint {name!r}; shipped and trained ones are not removed here")
    place = Path(tempfile.mkdtemp(dir=store.trash, prefix=f"checkpoint-{name}-")) / name
    shutil.move(store.checkpoints / name, place)
    return place


def put_back(store: Store, place: Path) -> None:
    """Take a checkpoint out of the trash again."""
    if (store.checkpoints / place.name).exists():
        raise UserError(f"there is a checkpoint {place.name!r} again; remove it first")
    shutil.move(place, store.checkpoints / place.name)
    place.parent.rmdir()


# ---------------------------------------------------------------------------------------------------------------------
# One checkpoint


def described(folder: Path) -> Description | str:
    """What a checkpoint says of itself, or what is wrong with it; read again only where its files changed."""
    try:
        stamps = tuple((f.name, f.stat().st_mtime_ns, f.stat().st_size) for f in sorted(folder.iterdir()))
    except OSError as error:
        return str(error)
    return _described(folder, stamps)


@lru_cache(maxsize=256)
def _described(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> Description | str:
    try:
        return shelf.describe(folder)
    except CheckpointError as error:
        return str(error)


def _entry(entry: Entry, opened: str, public: bool) -> Html:
    found = described(entry.folder)
    head = (tag("h3", tag("bdi", entry.name)), tag("span", word(f"models.{entry.origin}"), class_="vd-state"))
    remove = button("remove", entry.name, word("models.remove"), entry.name)
    removing = remove if entry.origin == "added" and not public else None
    if isinstance(found, str):
        return tag("li", *head, tag("p", message(found), class_="vd-error"), tag("div", removing, class_="vd-acts"))
    opens = entry.value == opened
    steps = found.training.get("steps")
    takes = "models.takes_colour" if found.channels == 3 else "models.takes_grey"
    rows = [
        (word("models.takes"), word(takes, frames=found.frames, side=found.side)),
        (
            word("models.parameters"),
            f"{found.parameters / 1e6:.2f} M" if found.parameters > 1e5 else str(found.parameters),
        ),
        (word("models.size"), cards.size(found.bytes)),
        (word("models.licence"), found.licence or word("models.not_stated")),
        (word("models.steps"), str(steps)[:20] if steps else ""),
        (word("models.digest"), tag("code", found.digest)),
    ]
    show = word("models.hide_card" if opens else "models.show_card")
    reading = button("card", entry.value, show, entry.name, aria_expanded=str(opens).lower()) if found.card else None
    return tag(
        "li",
        *head,
        facts(row for row in rows if row[1]),
        tag("div", reading, removing, class_="vd-acts"),
        tag("div", card.render(found.card), class_="vd-readme") if opens and found.card else None,
        class_="vd-model",
        data_name=entry.name,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Ways to add one


@dataclass(frozen=True)
class Way:
    """A way to add a checkpoint: its controls, which end in `add` and say what came of it."""

    name: str
    build: Callable[[App, gr.HTML, Callable[[], Html], gr.HTML], None]


def _adding(app: App, work: Callable[..., tuple[list[Path], str]], shown: Callable[[], Html]) -> Callable[..., Any]:
    """The handler of an add button: `work` finds files and a name from what was entered."""

    def added(*entered: Any) -> Any:
        try:
            folder = add(app.store, *work(*entered))
        except UserError as error:
            return notice(str(error), kind="error"), gr.skip()
        return notice(word("models.added_as", name=folder.name)), shown()

    return added


def _by_folder(app: App, said: gr.HTML, shown: Callable[[], Html], listed: gr.HTML) -> None:
    folder = gr.Textbox("", label=_("models.folder"), max_lines=1, elem_id="vd-models-folder")
    name = gr.Textbox(
        "", label=_("models.name"), info=_("models.name_info"), max_lines=1, elem_id="vd-models-folder-name"
    )
    go = gr.Button(_("models.add"), elem_id="vd-models-folder-add")

    def work(folder: str, name: str) -> tuple[list[Path], str]:
        if not folder.strip():
            raise UserError("give the folder of a checkpoint, which holds config.json and model.safetensors")
        given = Path(folder.strip()).expanduser()
        found = shelf.find(str(given))
        return sorted(found.iterdir()), name.strip() or given.resolve().name

    go.click(
        told(_adding(app, work, shown)), [folder, name], [said, listed], api_visibility="private", show_progress_on=go
    )


def _by_files(app: App, said: gr.HTML, shown: Callable[[], Html], listed: gr.HTML) -> None:
    files = gr.File(label=_("models.files"), file_count="multiple", elem_id="vd-models-files")
    name = gr.Textbox("", label=_("models.name"), max_lines=1, elem_id="vd-models-files-name")
    go = gr.Button(_("models.add"), elem_id="vd-models-files-add")

    def work(files: list[str] | None, name: str) -> tuple[list[Path], str]:
        if not name.strip():
            raise UserError("give the checkpoint a name, by which you will find it in the lists")
        return [Path(file) for file in files or ()], name.strip()

    go.click(
        told(_adding(app, work, shown)), [files, name], [said, listed], api_visibility="private", show_progress_on=go
    )


def _by_hub(app: App, said: gr.HTML, shown: Callable[[], Html], listed: gr.HTML) -> None:
    """Two steps: look (size, licence, revision), then fetch exactly what was looked at."""
    repository = gr.Textbox("", label=_("models.repository"), max_lines=1, elem_id="vd-models-repository")
    looked = gr.State(None)
    look = gr.Button(_("models.look"), elem_id="vd-models-look")
    offer = panel("vd-models-offer")
    go = gr.Button(_("models.fetch"), visible=False, elem_id="vd-models-fetch")

    def look_up(repository: str) -> Any:
        try:
            found = hub.look(repository.strip())
        except UserError as error:
            return None, notice(str(error), kind="error"), gr.Button(visible=False)
        rows = [
            (word("models.repository"), found.repository),
            (word("models.revision"), tag("code", found.revision)),
            (word("models.size"), cards.size(found.bytes)),
            (word("models.licence"), found.licence or word("models.not_stated")),
            (word("models.files"), join(*(tag("div", name) for name in found.files))),
        ]
        return found, facts(rows), gr.Button(visible=True)

    def fetch(found: hub.Offer | None) -> Any:
        try:
            if found is None:
                raise UserError("look at a repository first")
            app.store.check_room()
            with hub.fetched(found, app.store.cache) as files:
                folder = add(app.store, files, found.name)
        except UserError as error:
            return notice(str(error), kind="error"), gr.skip()
        return notice(word("models.added_as", name=folder.name)), shown()

    look.click(told(look_up), repository, [looked, offer, go], api_visibility="private", show_progress_on=look)
    go.click(told(fetch), looked, [said, listed], api_visibility="private", show_progress_on=go)


WAYS = (Way("folder", _by_folder), Way("files", _by_files), Way("hub", _by_hub))
"""An importer of another format is one more row: its controls, ending in the files of a checkpoint of ours."""
