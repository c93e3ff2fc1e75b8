"""The components of Make, Edit and Restore, and where they lie; what they do is in `make.py`."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio as gr

from videodiff.errors import UserError
from videodiff.presets import QUALITIES
from videodiff.settings import TASKS
from videodiff_ui import export, models, painter, part, said, timeline
from videodiff_ui.context import App
from videodiff_ui.form import Form
from videodiff_ui.words import _

PAGES: dict[str, tuple[str, ...]] = {
    "make": ("predict", "interpolate", "infill", "loop", "generate"),
    "edit": ("edit", "vary", "morph"),
    "restore": ("restore",),
}
FIRST = {
    "make": ("frames", "direction", "factor", "slow", "missing", "canvas", "steps", "seed"),
    "edit": ("strength", "amount", "frames", "steps", "seed"),
    "restore": ("operator", "noise", "blur", "factor", "method", "passes", "seed"),
}
HOME = {kind: page for page, kinds in PAGES.items() for kind in kinds}
"""The page a task is asked for on."""
OUTPUTS = {"MP4": ".mp4", "WebM": ".webm", "GIF": ".gif", "MKV": ".mkv", "PNG": ""}


QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}


def told(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The handler, its UserErrors shown on the page, where static/app.js puts them in the page's words."""

    @wraps(handler)
    def safe(*given: Any, **named: Any) -> Any:
        try:
            return handler(*given, **named)
        except UserError as error:
            raise gr.Error(str(error), duration=12, print_exception=False) from error

    return safe


class Desk:
    """The components of one tab, laid out inside it."""

    def __init__(self, app: App, name: str):
        self.app, self.name, self.kinds = app, name, PAGES[name]
        self.id = "vd" if name == "make" else f"vd-{name}"
        self.taken = gr.State(None)  # intake.Taken | None
        self.keyframes = gr.State({})  # frame -> bool [h w]
        self.jobs = gr.State(None)  # the jobs shown, newest run; None before the page has looked for them
        self.chosen = gr.State(None)  # the job whose result was chosen among variants
        self.drawn = gr.State(("", -1))  # what the result shows, and the version of the store that was drawn
        with gr.Row(elem_classes="vd-desk"):
            with gr.Column(scale=5, min_width=300):
                self._clip()
                self._request()
            with gr.Column(scale=6, min_width=300, elem_classes="vd-outcome"):
                self._run()
                self._result()

    def _clip(self) -> None:
        name = self.id
        self.input = gr.File(
            label=_("make.input"), file_types=["video", "image"], elem_id=f"{name}-input", height=110, visible=True
        )
        with gr.Row(elem_classes="vd-sources"):
            self.history = gr.Dropdown(
                [], label=_("make.history"), elem_id=f"{name}-history", value=None, min_width=160, filterable=True
            )
            self.example = gr.Button(_("make.example"), size="sm", min_width=80, elem_id=f"{name}-example")
            self.camera_open = gr.Button(_("make.camera"), size="sm", min_width=80, elem_id=f"{name}-camera-open")
        with gr.Group(visible=False) as self.camera_box:
            options = gr.WebcamOptions(constraints={"video": {"width": 640, "height": 480}})
            self.camera = gr.Video(
                sources=["webcam"], webcam_options=options, label=_("make.camera"), elem_id=f"{name}-camera"
            )
        # Gradio would mute and mirror what was taken, by a program that need not be installed.
        self.camera.preprocess = lambda payload: payload and payload.path  # type: ignore[method-assign]
        self.facts = gr.HTML(timeline.empty(), elem_id=f"{name}-facts", padding=False, apply_default_css=False)
        self.use = gr.Button(_("make.use_settings"), size="sm", visible=False, elem_id=f"{name}-use")
        self.strip = timeline.component(f"{name}-timeline")
        with gr.Accordion(
            _("part.title"), open=False, elem_id=f"{name}-part", elem_classes="vd-part-fold"
        ) as self.part_box:
            self.part = part.component(f"{name}-part-sheet")
            # Part.text: what the fold shows; "" while it is closed. It is beside the fields in the browser, so that a
            # handler sees the fields and the fold as they were at one moment.
            self.part_shown = gr.Textbox(elem_classes="vd-hidden vd-part-shown", elem_id=f"{name}-part-shown")
            self.part_look = gr.HTML("", elem_classes="vd-hidden", padding=False, apply_default_css=False)
        self.presets: dict[str, gr.Button] = {}
        if self.name == "make":
            with gr.Row(elem_classes="vd-presets"):
                for preset in timeline.PRESETS:
                    self.presets[preset] = gr.Button(
                        _(f"make.preset_{preset}"), size="sm", min_width=70, elem_id=f"{name}-preset-{preset}"
                    )
        self.asked = gr.HTML("", elem_id=f"{name}-asked", padding=False, apply_default_css=False)

    def _request(self) -> None:
        name = self.id
        self.task = gr.Radio(
            [(_(f"kind.{kind}"), kind) for kind in self.kinds],
            value=self.kinds[0],
            label=_("make.task"),
            elem_id=f"{name}-task",
            visible=len(self.kinds) > 1,
        )
        self.files: dict[str, gr.File] = {}
        for field in ("to", "guide", "reference"):
            if any(field in TASKS[kind].model_fields for kind in self.kinds):
                self.files[field] = gr.File(
                    label=_(f"field.{field}"),
                    file_types=["video", "image"],
                    height=90,
                    visible=field in TASKS[self.kinds[0]].model_fields,
                    elem_id=f"{name}-{field}",
                )
        if any("mask" in TASKS[kind].model_fields for kind in self.kinds):
            self._mask()
        else:
            self.mask_box = None
        self.quality = gr.Radio(
            [(_("make.quality_usual"), "usual"), *((_(f"make.quality_{quality}"), quality) for quality in QUALITIES)],
            value="usual",
            label=_("make.quality"),
            elem_id=f"{name}-quality",
        )
        store = self.app.store
        self.form = Form(self.kinds, FIRST[self.name], name, models.choices(store), self.app.public)
        network = self.form.controls["checkpoint"]  # what was added or trained meanwhile can be chosen
        self.app.tabs.select(lambda: gr.Dropdown(choices=models.choices(store)), None, network, **QUIET)

    def _mask(self) -> None:
        name = self.id
        with gr.Accordion(
            _("field.mask"), open=False, elem_id=f"{name}-mask", visible="mask" in TASKS[self.kinds[0]].model_fields
        ) as self.mask_box:
            self.mask_frame = gr.Slider(0, 1, step=1, value=0, label=_("make.mask_frame"), elem_id=f"{name}-mask-frame")
            self.painter = painter.component(f"{name}-painter")
            with gr.Row():
                self.mask_earlier = gr.Button(
                    _("make.mask_earlier"), size="sm", min_width=90, interactive=False, elem_id=f"{name}-mask-earlier"
                )
                self.mask_later = gr.Button(
                    _("make.mask_later"), size="sm", min_width=90, interactive=False, elem_id=f"{name}-mask-later"
                )
                self.mask_drop = gr.Button(
                    _("make.mask_drop"), size="sm", min_width=90, interactive=False, elem_id=f"{name}-mask-drop"
                )
            self.mask_facts = gr.HTML("", elem_id=f"{name}-mask-facts", padding=False, apply_default_css=False)
            with gr.Row():
                self.grow = gr.Slider(-32, 32, step=1, value=0, label=_("make.grow"), min_width=120)
                self.feather = gr.Slider(0, 64, step=1, value=0, label=_("make.feather"), min_width=120)
            self.mask_file = gr.File(
                label=_("make.mask_file"), file_types=["video", "image"], height=90, elem_id=f"{name}-mask-file"
            )

    def _run(self) -> None:
        name = self.id
        with gr.Row(elem_classes="vd-run-row"):
            self.run = gr.Button(_("make.run"), variant="primary", elem_id=f"{name}-run", scale=3, min_width=120)
            self.stop = gr.Button(_("make.stop"), elem_id=f"{name}-stop", interactive=False, scale=1, min_width=80)
        with gr.Row():
            self.variants = gr.Number(
                1,
                precision=0,
                minimum=1,
                maximum=8,
                label=_("make.variants"),
                min_width=100,
                elem_id=f"{name}-variants",
            )
            self.container = gr.Dropdown(
                [*OUTPUTS], value="MP4", label=_("make.container"), min_width=100, elem_id=f"{name}-container"
            )
        self.estimate = gr.HTML("", elem_id=f"{name}-estimate", padding=False, apply_default_css=False)
        self.progress = gr.HTML("", elem_id=f"{name}-progress", padding=False, apply_default_css=False)
        self.preview = gr.HTML("", elem_id=f"{name}-preview", padding=False, apply_default_css=False)

    def _result(self) -> None:
        name = self.id
        self.grid = gr.HTML("", elem_id=f"{name}-grid", padding=False, apply_default_css=False)
        self.variant = gr.Radio([], label=_("make.variant"), visible=False, elem_id=f"{name}-variant")
        self.result = gr.HTML(said.nothing_yet(), elem_id=f"{name}-result", padding=False, apply_default_css=False)
        with gr.Column(visible=False) as self.after:
            with gr.Row(elem_classes="vd-actions"):
                self.download = gr.DownloadButton(
                    _("make.download"), size="sm", variant="primary", min_width=90, elem_id=f"{name}-download"
                )
                self.again = gr.Button(_("make.again"), size="sm", min_width=90, elem_id=f"{name}-again")
                self.extend = gr.Button(_("make.extend"), size="sm", min_width=90, elem_id=f"{name}-extend")
            with gr.Row(elem_classes="vd-actions"):
                self.send = {
                    page: gr.Button(_(f"make.send_{page}"), size="sm", min_width=90, elem_id=f"{name}-send-{page}")
                    for page in PAGES
                }
            with gr.Row(elem_classes="vd-actions"):
                self.form_out = gr.Dropdown(
                    [(_(f"make.export_{form}"), form) for form in export.FORMS],
                    value="mp4",
                    label=_("make.export_as"),
                    min_width=120,
                    elem_id=f"{name}-export-form",
                )
                self.export = gr.Button(_("make.export"), size="sm", min_width=90, elem_id=f"{name}-export")
                self.exported = gr.DownloadButton(
                    _("make.exported"), size="sm", visible=False, min_width=90, elem_id=f"{name}-exported"
                )
