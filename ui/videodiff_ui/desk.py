"""The components of Make, Edit and Restore, and where they lie; what they do is in `make.py`."""

import gradio as gr

from videodiff.presets import QUALITIES
from videodiff.settings import TASKS
from videodiff_ui import models, painter, part, timeline
from videodiff_ui.context import PAGES, QUIET, App
from videodiff_ui.form import Form
from videodiff_ui.outcome import MOST_VARIANTS, Outcome
from videodiff_ui.words import _

FIRST = {
    "make": ("frames", "direction", "factor", "slow", "missing", "canvas", "steps", "seed"),
    "edit": ("strength", "amount", "frames", "steps", "seed"),
    "restore": ("operator", "noise", "blur", "factor", "method", "passes", "seed"),
}
CLIPS = ["video", "image", ".3gp", ".3g2", ".ts", ".mts", ".m2ts", ".vob", ".ivf", ".obu"]
"""What may be chosen as a clip: what a browser calls one, and endings it takes for something else."""
OUTPUTS = {"MP4": ".mp4", "WebM": ".webm", "GIF": ".gif", "MKV": ".mkv", "PNG": ""}


class Desk:
    """The components of one tab, laid out inside it."""

    def __init__(self, app: App, name: str):
        self.app, self.name, self.kinds = app, name, PAGES[name]
        self.id = "vd" if name == "make" else f"vd-{name}"
        self.taken = gr.State(None)  # intake.Taken | None
        self.refused = gr.State("")  # why what is marked on the strip cannot be asked for
        self.keyframes = gr.State({})  # frame -> bool [h w]
        with gr.Row(elem_classes="vd-desk"):
            with gr.Column(scale=5, min_width=300):
                self._clip()
                self._request()
            with gr.Column(scale=6, min_width=300, elem_classes="vd-outcome"):
                self._run()
                self.outcome = Outcome(app, name, self.stop)

    def _clip(self) -> None:
        name = self.id
        self.input = gr.File(label=_("make.input"), file_types=CLIPS, elem_id=f"{name}-input", height=110, visible=True)
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
                    file_types=CLIPS,
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
                label=_("make.mask_file"), file_types=CLIPS, height=90, elem_id=f"{name}-mask-file"
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
                maximum=MOST_VARIANTS,
                label=_("make.variants"),
                min_width=100,
                elem_id=f"{name}-variants",
            )
            self.container = gr.Dropdown(
                [*OUTPUTS], value="MP4", label=_("make.container"), min_width=100, elem_id=f"{name}-container"
            )
        self.estimate = gr.HTML("", elem_id=f"{name}-estimate", padding=False, apply_default_css=False)
