"""Make, Edit and Restore: a clip in, a request, a clip out. One build for the three tabs, which differ in their tasks.

Handlers read the components, ask the modules beside this one, and return updates by component. What becomes of a
request is in `outcome.py`.
"""

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from videodiff.errors import LimitExceeded, UserError
from videodiff.jobs import DONE
from videodiff.settings import TASKS, Task
from videodiff_ui import estimate, intake, masks, painter, part, said, timeline
from videodiff_ui.context import HOME, PRIVATE, QUIET, App, told
from videodiff_ui.desk import OUTPUTS, Desk
from videodiff_ui.fields import fields_of
from videodiff_ui.html import Html, message, tag
from videodiff_ui.outcome import MOST_VARIANTS, output_of
from videodiff_ui.public import MOST_READ

CUT = ("start", "end", "crop")
"""The settings that are chosen under the strip; they belong to the clip that is there."""
NOTHING = timeline.Marks(0)


class Page(Desk):
    """A tab and what happens in it."""

    def __init__(self, app: App, name: str):
        super().__init__(app, name)
        self._listen()

    # --- what happens when

    def _listen(self) -> None:
        controls = self.form.controls
        reading = [controls[name] for name in intake.READING if name in controls]
        everything = {
            self.taken, self.refused, self.keyframes, self.part_shown, self.task, self.variants, self.container,
            *self.form.components, *self.files.values(),
        }  # fmt: skip
        if self.mask_box is not None:
            everything |= {self.mask_frame, self.grow, self.feather, self.mask_file}
        cut = [controls[name] for name in CUT]
        strip = [self.strip, self.asked, self.refused]
        clip_outputs = [self.taken, self.facts, self.use, *strip, self.part, self.part_shown]
        if self.mask_box is not None:
            keys = [self.keyframes, self.mask_facts, self.mask_earlier, self.mask_later, self.mask_drop]
            sheet = [self.painter, *keys]
            clip_outputs += [self.mask_frame, *sheet]
        new_clip = [*clip_outputs, *cut]
        # Strokes are taken one after another and none is left out. A run takes its turn among them and then begins, so
        # it has all that was painted before it, and nobody waits for its mask to be written.
        in_turn: dict[str, Any] = {**QUIET, "concurrency_id": f"{self.id}-mask", "concurrency_limit": 1}

        self.input.upload(told(self.uploaded), {self.input, *everything}, new_clip, **PRIVATE)
        self.input.clear(told(self.cleared), None, new_clip, **QUIET)
        self.example.click(told(self.exemplified), everything, new_clip, **PRIVATE)
        self.camera.change(told(self.recorded), {self.camera, *everything}, new_clip, **PRIVATE)
        self.camera_open.click(lambda: gr.update(visible=True), None, self.camera_box, **QUIET)
        self.history.focus(told(self.recent), None, self.history, **QUIET)
        self.history.input(told(self.picked), {self.history, *everything}, new_clip, **PRIVATE)
        gr.on(  # one event for all, so that what is read last is what is there last
            [one.change for one in (*reading, self.part_shown)],
            told(self.reread),
            everything,
            clip_outputs,
            trigger_mode="always_last",
            show_progress_on=self.facts,
            **PRIVATE,
        )
        sheet_of_part = [self.part, self.part_look, self.part_shown]
        self.part_box.expand(told(self.unfolded), everything, sheet_of_part, **PRIVATE)
        self.part_box.collapse(self.folded, None, sheet_of_part, **QUIET)
        # Gradio's "always_last" would send what was chosen first once more.
        self.part.submit(told(self.looked), everything, self.part_look, trigger_mode="multiple", **QUIET)
        self.part.input(told(self.parted), everything, [*cut, self.part_shown], trigger_mode="multiple", **in_turn)
        fields = [self.task, *self.form.components, *self.files.values()]
        if self.mask_box is not None:
            fields.append(self.mask_box)
        self.use.click(told(self.use_former), everything, [*fields, self.use, *strip], **QUIET).then(
            told(self.reread), everything, clip_outputs, **PRIVATE
        )  # fields that are folded away do not say that they have changed
        self.task.input(told(self.chose_task), everything, [*fields, *strip], **QUIET)
        self.quality.input(told(self.chose_quality), {self.quality, self.task}, self.form.components, **QUIET)
        self.strip.input(told(self.marked), everything, [*fields, self.asked, self.refused], **QUIET)
        for name, button in self.presets.items():
            button.click(told(self.preset(name)), everything, [*fields, *strip], **QUIET)
        for name in ("frames", "direction", "factor", "slow", "missing"):
            if self.name == "make":
                events = [controls[name].input]
                if name in ("frames", "missing"):  # what is pasted is no input to Gradio
                    events.append(controls[name].blur)
                gr.on(events, self.redrawn, everything, strip, trigger_mode="always_last", **QUIET)
        gr.on(
            [one.change for one in (self.task, self.taken, *self.form.components)],
            self.estimated,
            everything,
            self.estimate,
            trigger_mode="always_last",
            **QUIET,
        )
        if self.mask_box is not None:
            self.painter.input(told(self.painted), everything, keys, trigger_mode="multiple", **in_turn)
            self.mask_frame.change(told(self.turned), everything, sheet, trigger_mode="always_last", **in_turn)
            self.mask_earlier.click(told(self.to_keyframe(-1)), everything, self.mask_frame, **in_turn)
            self.mask_later.click(told(self.to_keyframe(1)), everything, self.mask_frame, **in_turn)
            self.mask_drop.click(told(self.dropped), everything, sheet, **in_turn)

        self.run.click(lambda: None, None, None, **in_turn).then(
            told(self.started), everything, self.outcome.shown, **QUIET
        )
        self.app.inbox.change(
            told(self.received),
            {self.app.inbox, *everything},
            [*dict.fromkeys((*clip_outputs, *fields, *([self.mask_file] if self.mask_box else []), self.input))],
            **QUIET,
        )

    # --- the clip

    def uploaded(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """A file was dropped: keep it, look through it, show its strip."""
        path = data[self.input]
        return self._new_clip(intake.keep(Path(path), self.app.store), data) if path else self.cleared()

    def exemplified(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """The clip that comes with the app is to be taken."""
        return self._new_clip(intake.keep(intake.EXAMPLE, self.app.store), data)

    def recorded(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """The camera gave a clip."""
        path = data[self.camera]
        return self._new_clip(intake.keep(Path(path), self.app.store), data) if path else {self.taken: gr.skip()}

    def recent(self, request: gr.Request) -> Any:
        """The results that can be taken as a clip, newest first."""
        visitor = self.app.visitor(request) if self.app.public else None
        found = self.app.store.list(states=(DONE,), visitor=visitor, kinds=tuple(TASKS), limit=50)
        return gr.update(choices=[(f"{job.id} · {job.kind} · {job.title}", job.id) for job in found if job.output])

    def picked(self, data: Mapping[Any, Any], request: gr.Request) -> dict[Any, Any]:
        """A former result was picked."""
        if not data[self.history]:
            return {}
        return self._new_clip(output_of(self.app.own(int(data[self.history]), request)), data)

    def cleared(self) -> dict[Any, Any]:
        """There is no clip any more."""
        updates = {
            self.taken: None,
            self.facts: timeline.empty(),
            self.use: gr.update(visible=False),
            **self._strip(None, NOTHING),
            self.part: timeline.empty(),
            **self._whole(),
        }
        if self.mask_box is not None:
            updates |= {self.painter: "", **self._keys({}, 0)}
        return updates

    def reread(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Another part of the clip is to be used."""
        taken, values = data[self.taken], self._values(data)
        if taken is None or intake.part_of(values) == taken.part:
            return {self.taken: gr.skip()}
        return self._with_clip(taken.path, data, taken)

    def _new_clip(self, path: Path, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Another clip is there: all of it is used, whatever was cut out of the one before."""
        if data[self.taken] is None:
            return self._with_clip(path, data)
        whole = self._whole()
        return self._with_clip(path, {**data, **whole}) | whole

    def _whole(self) -> dict[Any, Any]:
        """Values of the controls that use all of a clip."""
        return {self.form.controls[name]: "" for name in CUT}

    def _with_clip(self, path: Path, data: Mapping[Any, Any], last: intake.Taken | None = None) -> dict[Any, Any]:
        taken = intake.take(path, self._values(data), last)
        updates = {
            self.taken: taken,
            self.facts: said.clip_facts(taken),
            self.use: gr.update(visible=taken.former is not None),
            **self._shown(taken, data[self.task], self._values(data)),
            **self._part(taken, data[self.part_shown], last),
        }
        if self.mask_box is None:
            return updates
        if last is None:
            updates |= {
                self.mask_frame: gr.update(maximum=max(1, taken.total - 1), value=0),
                self.painter: self._sheet(taken, {}, 0),
                **self._keys({}, 0),
            }
        elif last.mask_size() != taken.mask_size():  # a picture that is cropped is painted on in its own size
            painted = masks.resized(data[self.keyframes], taken.mask_size())
            place = int(data[self.mask_frame])
            updates |= {self.painter: self._sheet(taken, painted, place), **self._keys(painted, place)}
        return updates

    def _strip(self, taken: intake.Taken | None, marks: timeline.Marks) -> dict[Any, Any]:
        if taken is None:
            return {self.strip: "", self.asked: "", self.refused: ""}
        strip = timeline.draw(taken.thumbnails, marks, locked=self.name != "make")
        return {self.strip: strip, self.asked: self._says(marks), self.refused: ""}

    def _says(self, marks: timeline.Marks) -> Html:
        return said.asked(marks) if self.name == "make" else Html("")

    # --- the part of the clip that is used

    def unfolded(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """The fold was opened: what it shows is drawn now, and as long as it is open."""
        return self._sheet_of_part(data[self.taken])

    def folded(self) -> dict[Any, Any]:
        """The fold was closed: nothing is drawn any more."""
        return {self.part: "", self.part_look: "", self.part_shown: ""}

    def looked(self, data: Mapping[Any, Any], event: gr.EventData) -> dict[Any, Any]:
        """A handle came to rest: its frame is to be seen."""
        taken = data[self.taken]
        if taken is None:
            return {self.part_look: ""}
        return {self.part_look: part.look(intake.look(taken, part.parse_place(str(event.place), taken)))}

    def parted(self, data: Mapping[Any, Any], event: gr.EventData) -> dict[Any, Any]:
        """A part was chosen by hand: the settings that mean it. What is typed there and means the same stays."""
        taken = data[self.taken]
        if taken is None:
            raise UserError("there is no clip yet; drop one above, then choose a part of it")
        chosen = part.parse(str(event.part), taken)
        controls = self.form.controls
        settings = chosen.settings(taken)
        try:
            now = part.of(taken, dict(intake.part_of(self._values(data)))).settings(taken)
        except UserError:  # what is typed there is no setting; it goes
            now = {}
        kept = {name for name, value in settings.items() if name in now and now[name] == value}
        return {
            self.part_shown: chosen.text,
            **{controls[name]: data[controls[name]] if name in kept else value for name, value in settings.items()},
        }

    def _part(self, taken: intake.Taken, shown: str, last: intake.Taken | None) -> dict[Any, Any]:
        """Updates of the fold: none while it is closed, or while it shows this part of the clip already."""
        same = last is not None and shown == part.of(taken).text
        return {} if not shown or same else self._sheet_of_part(taken)

    def _sheet_of_part(self, taken: intake.Taken | None) -> dict[Any, Any]:
        if taken is None:
            return {self.part: timeline.empty(), self.part_shown: part.NOTHING}
        chosen = part.of(taken)
        return {self.part: part.draw(intake.look(taken, chosen.first), taken, chosen), self.part_shown: chosen.text}

    # --- the request

    def _values(self, data: Mapping[Any, Any]) -> dict[str, Any]:
        return {name: data[control] for name, control in self.form.controls.items()}

    def _fields(self, kind: str, values: Mapping[str, Any] | None = None) -> dict[Any, Any]:
        """Updates that show the controls of a task."""
        updates: dict[Any, Any] = {self.task: kind}
        updates |= dict(zip(self.form.components, self.form.of_kind(kind, values), strict=True))
        updates |= {file: gr.update(visible=name in TASKS[kind].model_fields) for name, file in self.files.items()}
        if self.mask_box is not None:
            updates[self.mask_box] = gr.update(visible="mask" in TASKS[kind].model_fields)
        return updates

    def chose_task(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """A task was chosen: its controls, and what it means on the strip."""
        kind, taken = data[self.task], data[self.taken]
        updates = self._fields(kind, self._common(data, kind))
        return updates | self._shown(taken, kind, {})

    def _common(self, data: Mapping[Any, Any], kind: str) -> dict[str, Any]:
        """What was set and means the same for another task: all but what tasks differ in."""
        values, fields = self._values(data), fields_of(kind)
        shared = {name for name in fields if all(name in fields_of(other) for other in self.kinds)}
        shared |= fields.keys() & {*intake.READING}  # a clip that was cut stays cut; Generate has none
        own = {"steps", "frames"}
        return {name: values[name] for name in shared - own}

    def chose_quality(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """A quality was chosen: the settings that make it."""
        updates = self.form.with_preset(data[self.task], data[self.quality])
        return dict(zip(self.form.components, updates, strict=True))

    def marked(self, data: Mapping[Any, Any], event: gr.EventData) -> dict[Any, Any]:
        """Frames were marked by hand: the request they amount to."""
        taken = data[self.taken]
        if taken is None:
            return {self.asked: ""}
        return self._asking(timeline.parse(str(event.marks), taken.frames), data)

    def preset(self, name: str) -> Callable[[Mapping[Any, Any]], dict[Any, Any]]:
        """The handler of a preset's button."""

        def chosen(data: Mapping[Any, Any]) -> dict[Any, Any]:
            taken = data[self.taken]
            if taken is None:
                raise UserError("there is no clip yet; drop one above, or choose the task Generate")
            marks = timeline.preset(name, taken.frames)
            return self._asking(marks, data) | self._strip(taken, marks)

        return chosen

    def _asking(self, marks: timeline.Marks, data: Mapping[Any, Any]) -> dict[Any, Any]:
        says = {self.asked: self._says(marks), self.refused: ""}
        try:
            kind, settings = timeline.request_of(marks)
        except UserError as error:
            if marks == timeline.Marks(marks.frames) and data[self.task] == "infill":
                return says | {self.form.controls["missing"]: ""}  # a mask may still say what is wanted
            return says | {self.refused: str(error)}
        return says | self._fields(kind, self._common(data, kind) | settings)

    def redrawn(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """A number of frames was typed: the strip shows it."""
        return self._shown(data[self.taken], data[self.task], self._values(data))

    def _shown(self, taken: intake.Taken | None, kind: str, values: Mapping[str, Any]) -> dict[Any, Any]:
        """The strip with what is asked for. What is not valid yet is said below it, and by the run."""
        if taken is None:
            return self._strip(None, NOTHING)
        try:
            return self._strip(taken, timeline.marks_of(kind, dict(values), taken.frames))
        except UserError as error:
            said_below = {self.asked: tag("p", message(str(error)), class_="vd-hint")}
            return self._strip(taken, timeline.Marks(taken.frames)) | said_below

    def use_former(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """The settings inside the clip become those of the page."""
        taken = data[self.taken]
        former = taken.former
        if former.kind not in self.kinds:
            raise UserError(
                f"these are settings of the task {former.kind}, which is on another page: {HOME[former.kind]}"
            )
        values = former.model_dump()
        shown = self._shown(taken, former.kind, values)
        return self._fields(former.kind, values) | shown | {self.use: gr.update(visible=False)}

    def estimated(self, data: Mapping[Any, Any]) -> Html:
        """What the run would take, as far as it can be said before it."""
        try:
            return estimate.draw(self._read(data, {}), data[self.taken], self.app.store)
        except (UserError, ValueError):
            return Html("")  # not a request yet; the run will say what is wrong

    def _read(self, data: Mapping[Any, Any], made: Mapping[str, Any]) -> Task:
        """The request on the page; `made` are files made for it."""
        kind, taken = data[self.task], data[self.taken]
        files: dict[str, Any] = {
            name: data[file] for name, file in self.files.items() if name in TASKS[kind].model_fields
        }
        if "input" in TASKS[kind].model_fields:
            if taken is None:
                raise UserError("there is no clip yet; drop one on the left, or pick one from the history")
            files["input"] = taken.path
        return self.form.read(kind, self._values(data), **files, **made)

    # --- the mask

    def painted(self, data: Mapping[Any, Any], event: gr.EventData) -> dict[Any, Any]:
        """A stroke has ended: the mask that is seen is the keyframe of its frame."""
        taken = data[self.taken]
        if taken is None:
            raise UserError("there is no clip yet; drop one above, then paint on it")
        place, mask = painter.parse(str(event.painted), taken.total, taken.mask_size())
        return self._keys({**data[self.keyframes], place: mask}, place)

    def turned(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Another frame is to be painted on, with the mask that is there by now."""
        taken, keyframes, place = data[self.taken], data[self.keyframes], int(data[self.mask_frame])
        if taken is None:
            return {self.painter: ""}
        return {self.painter: self._sheet(taken, keyframes, place), **self._keys(keyframes, place)}

    def to_keyframe(self, step: int) -> Callable[[Mapping[Any, Any]], dict[Any, Any]]:
        """The handler of a button that goes to the nearest keyframe before (-1) or after (1) the frame shown."""

        def go(data: Mapping[Any, Any]) -> dict[Any, Any]:
            place = data[self.mask_frame]
            beyond = [key for key in data[self.keyframes] if (key - place) * step > 0]
            return {self.mask_frame: min(beyond, key=lambda key: abs(key - place), default=place)}

        return go

    def dropped(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """This frame is no keyframe any more: its mask follows from the others."""
        place = int(data[self.mask_frame])
        keyframes = {key: mask for key, mask in data[self.keyframes].items() if key != place}
        return self.turned({**data, self.keyframes: keyframes})

    def _sheet(self, taken: intake.Taken, keyframes: Mapping[int, Any], place: int) -> Html:
        """The painter on a frame, with the mask that the keyframes give it."""
        mask = masks.at(keyframes, place) > 0 if keyframes else np.zeros(taken.mask_size(), bool)
        return painter.draw(intake.frame(taken, place), mask, place)

    def _keys(self, keyframes: Mapping[int, Any], place: int) -> dict[Any, Any]:
        """Updates that keep these keyframes and say what can be done with them at a frame."""
        return {
            self.keyframes: keyframes,
            self.mask_facts: said.mask_facts(keyframes),
            self.mask_earlier: gr.update(interactive=any(key < place for key in keyframes)),
            self.mask_later: gr.update(interactive=any(key > place for key in keyframes)),
            self.mask_drop: gr.update(interactive=place in keyframes),
        }

    def _mask_of(self, data: Mapping[Any, Any]) -> dict[str, Any]:
        """The mask as a file, if there is one: what was given, or what was painted."""
        taken = data[self.taken]
        if self.mask_box is None or "mask" not in TASKS[data[self.task]].model_fields or taken is None:
            return {}
        if data[self.mask_file]:
            return {"mask": intake.keep(Path(data[self.mask_file]), self.app.store)}
        keyframes = data[self.keyframes]
        if not keyframes:
            return {}
        timed = {"start", "end", "fps"} & dict(taken.part).keys()
        if not taken.even and timed:
            raise UserError(
                "the frames of this clip are unevenly timed, so a painted mask needs the whole of it; "
                "leave start, end and frame rate empty"
            )
        if self.app.public and taken.total > MOST_READ:
            raise LimitExceeded(f"a mask is painted on at most {MOST_READ} frames here; use a shorter clip")
        folder = self.app.store.uploads / secrets.token_urlsafe(12)
        folder.mkdir(parents=True)
        frames = masks.frames(keyframes, taken.total, taken.mask_size(), data[self.grow], data[self.feather])
        return {"mask": masks.write(folder / "mask.mkv", frames, taken.fps)}

    # --- the run

    def started(self, data: Mapping[Any, Any], request: gr.Request) -> dict[Any, Any]:
        """Add a job for each variant."""
        if data[self.refused]:
            raise UserError(data[self.refused])
        for file in self.files.values():
            if data[file]:
                data = {**data, file: str(intake.keep(Path(data[file]), self.app.store))}
        made = self._mask_of(data)
        settings = self._read(data, made)
        number = int(data[self.variants] or 1)
        if not 1 <= number <= MOST_VARIANTS:
            raise UserError(f"{number} variants; give 1 to {MOST_VARIANTS}")
        assert settings.seed is not None
        requests = [settings.model_copy(update={"seed": (settings.seed + k) % 2**63}) for k in range(number)]
        jobs = self.app.store.add_all(requests, self.app.visitor(request), OUTPUTS[data[self.container]])
        return self.outcome.begun(jobs, request)

    # --- what other pages send

    def received(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Another page sent a clip, or settings with theirs."""
        parcel = data[self.app.inbox]
        if not parcel or parcel["task"] not in self.kinds:
            return {self.taken: gr.skip()}
        kind, settings = parcel["task"], parcel.get("settings") or {}
        values = {name: value for name, value in settings.items() if name in fields_of(kind)}
        updates = self._fields(kind, values)
        shown = {
            control: update.get("value")
            for control, update in zip(self.form.components, self.form.of_kind(kind, values), strict=True)
        }
        data = {**data, **shown, self.task: kind}
        clip = self._with_clip(Path(parcel["input"]), data) if parcel.get("input") else self.cleared()
        return clip | updates | self._further(settings) | {self.input: None}

    def _further(self, settings: Mapping[str, Any]) -> dict[Any, Any]:
        """The other files that a job of ours was made with, where they are still there."""
        places = {**self.files, **({"mask": self.mask_file} if self.mask_box is not None else {})}
        return {
            place: gr.update(value=self.app.shown(Path(settings[name])))
            for name, place in places.items()
            if settings.get(name) and Path(settings[name]).is_file()
        }


def build(app: App, page: str = "make") -> None:
    """The components of the page, inside its tab."""
    Page(app, page)
