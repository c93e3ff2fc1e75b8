"""Every request is one frozen, validated model.

Its fields make the command's options, the app's form, the JSON beside every output and inside it, and the presets; a
choice, a range, a default and its help text are declared here and nowhere else. No torch is imported, so that the
command can show its help at once. Fields are documented in their help text; tests equate the choices with the
dicts and folders that implement them.
"""

from __future__ import annotations

import difflib
import json
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from videodiff.errors import UserError

T = TypeVar("T")

SamplerName = Literal[
    "ddim",
    "euler",
    "dpm3",
    "dpm4",
    "deis_log_rho",
    "deis",
    "deis_rho",
    "lms",
    "dpmpp_2m",
    "dpmpp_2m_exact",
    "dpmpp_3m",
    "dpmpp_3m_exact",
    "unipc",
    "unipc_3",
    "unipc_exact",
    "dpm_2s",
    "dpm_3s",
    "dpmpp_2s",
    "dpmpp_3s",
    "heun",
    "genie",
    "pndm",
    "s_pndm",
    "ddpm",
    "ddpm_large",
    "euler_ancestral",
    "sde_dpmpp_2m",
    "sde_dpmpp_3m",
    "sde_dpmpp_2s",
    "edm_churn",
    "restart",
    "predictor_corrector",
    "langevin",
    "rk45",
    "dpm_adaptive",
]
WalkName = Literal["log_snr", "karras", "uniform_t", "quadratic_t"]
ConditioningName = Literal["concat", "clamp", "replace", "repaint", "reconstruction"]
DeviceName = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$")]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
AttentionName = Literal["auto", "sdpa", "xformers", "math"]
MaskName = Literal["nothing", "past", "half", "third", "future", "both_ends", "random_set", "spaced_set", "boxes"]


class Settings(BaseModel):
    """The base of every request: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def as_json(self) -> dict[str, Any]:
        """Plain values that `type(self).model_validate` turns back into an equal request."""
        return self.model_dump(mode="json")


# ---------------------------------------------------------------------------------------------------------------------
# Tasks


class Sampling(Settings):
    """How a network fills a canvas; shared by all tasks."""

    checkpoint: str = Field("motion", description="A shipped checkpoint, or the folder of one.")
    seed: int | None = Field(
        None, ge=0, lt=2**63, description="Same seed, same result. Drawn and recorded if not given."
    )
    steps: int = Field(4, ge=1, le=1000, description="Levels of noise to go through: more is finer and slower.")
    sampler: SamplerName = Field("dpm4", description="How a step is taken; see `videodiff list samplers`.")
    walk: WalkName = Field("log_snr", description="How the levels are spaced.")
    guidance: float = Field(
        1.0, ge=0, le=20, description="Weight of the given frames against none (classifier-free); 1 is off."
    )
    guidance_rescale: float = Field(
        0.0, ge=0, le=1, description="With --guidance: how far its rise in contrast is taken back, 0 to 1."
    )
    guidance_interval: tuple[float, float] | None = Field(
        None, description="With --guidance: only at noise levels between these two, such as 0.3 5."
    )
    threshold: float | None = Field(
        None, gt=0, le=100, description="Scale answers back into range at this percentile, such as 99.5 (dynamic)."
    )
    conditioning: ConditioningName = Field(
        "concat",
        description="How the given pixels are shown to the network; the shipped ones are trained for concat, the "
        "others make do with a network that knows nothing.",
    )
    repaint_times: int = Field(10, ge=2, le=100, description="With --conditioning repaint: how often a step is taken.")
    average: int = Field(
        1, ge=1, le=64, description="Average this many samples: closer to the truth on average, less lively."
    )
    window: int | None = Field(
        None, ge=3, le=256, description="Frames the network sees at once; as trained if not given."
    )
    device: DeviceName = Field("auto", description="auto, cpu, cuda, cuda:1 or mps.")
    precision: Precision = Field("auto", description="Of the network alone: bfloat16 where the device is fast in it.")
    attention: AttentionName = Field("auto", description="Which attention kernel.")
    threads: int | None = Field(None, ge=1, le=256, description="CPU threads.")

    @model_validator(mode="after")
    def _draw_seed(self) -> Self:
        if self.seed is None:
            object.__setattr__(self, "seed", random.SystemRandom().randrange(2**31))
        return self

    @model_validator(mode="after")
    def _all_is_honoured(self) -> Self:
        if self.guidance != 1 and self.conditioning != "concat":
            raise ValueError(f"--guidance needs --conditioning concat; {self.conditioning!r} has no two answers to mix")
        if self.guidance == 1 and (asked := self._asked("guidance_rescale", "guidance_interval")):
            raise ValueError(f"{asked} means nothing without --guidance; give --guidance 2, or leave it out")
        if self.guidance_interval is not None and not 0 <= self.guidance_interval[0] < self.guidance_interval[1]:
            raise ValueError("--guidance-interval takes two noise levels, the lower one first, such as 0.3 5")
        if self.conditioning != "repaint" and (asked := self._asked("repaint_times")):
            raise ValueError(f"{asked} means nothing without --conditioning repaint; leave it out")
        return self

    def _asked(self, *names: str) -> str:
        """Those of these options that differ from their defaults, in words."""
        fields = type(self).model_fields
        return " and ".join(
            f"--{name.replace('_', '-')}" for name in names if getattr(self, name) != fields[name].default
        )


class Reading(Settings):
    """Which part of the input is used, and at what size."""

    start: float | None = Field(None, ge=0, description="Begin the input here, in seconds.")
    end: float | None = Field(None, gt=0, description="End the input here, in seconds.")
    fps: float | None = Field(None, gt=0, le=1000, description="Resample the input to this frame rate by time stamps.")
    stride: int = Field(1, ge=1, le=1000, description="Use every n-th frame of the input.")
    crop: str | None = Field(
        None, description="Use only this part of the picture, in pixels: WIDTHxHEIGHT+LEFT+TOP, such as 96x64+10+20."
    )
    size: int | None = Field(
        None, ge=16, le=1024, description="Short side in pixels; the network's own if not given. Aspect ratio is kept."
    )

    @field_validator("crop")
    @classmethod
    def _names_a_rectangle(cls, crop: str | None) -> str | None:
        if crop is not None:
            parse_crop(crop)
        return crop


def parse_crop(text: str) -> tuple[int, int, int, int]:
    """(height, width, top, left) of "WIDTHxHEIGHT+LEFT+TOP"."""
    match = re.fullmatch(r"\s*(\d{1,5})x(\d{1,5})\+(\d{1,5})\+(\d{1,5})\s*", text)
    width, height, left, top = (int(n) for n in match.groups()) if match else (0, 0, 0, 0)
    if not width or not height:
        raise ValueError(
            "write WIDTHxHEIGHT+LEFT+TOP, such as 96x64+10+20: 96 wide, 64 high, 10 from the left, 20 down"
        )
    return height, width, top, left


class Writing(Settings):
    """Where the result goes."""

    output: Path | None = Field(
        None, description="File to write: .mp4, .webm, .gif, .mkv (lossless), or a folder name for PNGs."
    )
    overwrite: bool = Field(False, description="Replace an existing output.")
    sheet: bool = Field(False, description="Write a contact sheet (PNG) beside the result.")


class Task(Sampling, Writing):
    """A request that ends in a clip."""

    kind: str

    @property
    def source(self) -> Path | None:
        """What is read; None where a clip is made from nothing."""
        return getattr(self, "input", None)

    @property
    def reads(self) -> list[Path]:
        """All files that are read."""
        return [
            path
            for name in ("input", "to", "mask", "guide", "reference")
            if (path := getattr(self, name, None)) is not None
        ]


class Predict(Task, Reading):
    """Continue a clip, or say what came before it."""

    kind: Literal["predict"] = "predict"
    input: Path = Field(description="A clip, a picture, a folder of pictures, or a folder of clips (each is done).")
    frames: int = Field(16, ge=1, le=100_000, description="New frames.")
    direction: Literal["forward", "backward"] = Field("forward", description="What comes next, or what came before.")
    context: int | None = Field(None, ge=1, le=255, description="Frames of the input the network looks at, at most.")
    only_new: bool = Field(False, description="Write the new frames alone.")


class Interpolate(Task, Reading):
    """Fill in frames between the frames of a clip, or between two pictures or clips."""

    kind: Literal["interpolate"] = "interpolate"
    input: Path = Field(description="A clip, a folder of pictures, or the first of two inputs.")
    to: Path | None = Field(None, description="A second picture or clip: fill between the two.")
    factor: Literal[2, 4, 8] = Field(2, description="Frame rate times this (within one clip).")
    frames: int = Field(7, ge=1, le=1000, description="New frames between two inputs.")
    slow: bool = Field(False, description="Keep the frame rate: slow motion instead of smoother motion.")

    @model_validator(mode="after")
    def _one_way_of_asking(self) -> Self:
        if asked := self._asked(*(("factor", "slow") if self.to is not None else ("frames",))):
            where = "between two inputs (--to)" if self.to is not None else "within one clip"
            raise ValueError(f"{asked} means nothing {where}; leave it out")
        return self


class Infill(Task, Reading):
    """Fill missing frames, a hole in the picture, or the space around it."""

    kind: Literal["infill"] = "infill"
    input: Path = Field(description="A clip or a folder of pictures.")
    missing: str | None = Field(None, description="Frames to fill, counted from 0: 10:20,31 means 10 to 19, and 31.")
    mask: Path | None = Field(None, description="White where to fill: a picture, or a clip with a mask for each frame.")
    canvas: str | None = Field(None, description="Widen to WIDTHxHEIGHT pixels round the picture, such as 96x64.")

    @model_validator(mode="after")
    def _something_to_fill(self) -> Infill:
        if not (self.missing or self.mask or self.canvas):
            raise ValueError("nothing to fill: give --missing 10:20, --mask mask.png or --canvas 96x64")
        return self


class Redraw(Task, Reading):
    """A request whose frames are all a guide and none of them known."""

    @model_validator(mode="after")
    def _knows_nothing(self) -> Self:
        if asked := self._asked("guidance", "conditioning"):
            raise ValueError(f"{asked} means nothing for {self.kind}, where no frame is known; leave it out")
        return self


class Edit(Redraw):
    """Redraw a clip, all of it or a part: cover it with noise, and let the network clear it."""

    kind: Literal["edit"] = "edit"
    input: Path = Field(description="A clip, a picture, a folder of pictures, or a folder of clips (each is done).")
    strength: float = Field(0.3, ge=0, le=1, description="How much is redrawn: 0 nothing, 1 all, whatever was there.")
    mask: Path | None = Field(
        None, description="Where: a picture or a clip; white takes the whole strength, grey its share, black nothing."
    )
    guide: Path | None = Field(
        None, description="With --mask: a clip to begin from where the mask is not black, such as one painted over."
    )

    @model_validator(mode="after")
    def _the_guide_has_a_place(self) -> Self:
        if self.guide is not None and self.mask is None:
            raise ValueError("--guide needs --mask, which says where; to redraw all of the guide, give it as the input")
        return self


class Vary(Redraw):
    """Make variations of a clip: turn the noise it comes from towards other noise."""

    kind: Literal["vary"] = "vary"
    input: Path = Field(description="A clip, a picture, a folder of pictures, or a folder of clips (each is done).")
    amount: float = Field(0.1, ge=0, le=1, description="How far: 0 gives the clip, 1 one that has nothing of it.")
    steps: int = Field(16, ge=1, le=1000, description="Levels of noise on the way up and again on the way down.")


class Morph(Redraw):
    """Go from one clip to another: frame by frame through the noise both come from."""

    kind: Literal["morph"] = "morph"
    input: Path = Field(description="The clip it begins as; a single picture is held.")
    to: Path = Field(description="The clip it ends as, likewise.")
    frames: int | None = Field(
        None, ge=3, le=100_000, description="Frames of the result; those of the shorter clip if not given."
    )
    steps: int = Field(16, ge=1, le=1000, description="Levels of noise on the way up and again on the way down.")


class Loop(Task, Reading):
    """Make a clip repeat without a seam: fill in frames between its end and its beginning."""

    kind: Literal["loop"] = "loop"
    input: Path = Field(description="A clip, a folder of pictures, or a folder of clips (each is done).")
    frames: int = Field(8, ge=1, le=1000, description="New frames, after the last one.")


class Restore(Task, Reading):
    """Undo damage that is known: noise, blur, missing colour, pixels or frames."""

    kind: Literal["restore"] = "restore"
    input: Path = Field(description="A damaged clip, a folder of pictures, or a folder of clips (each is done).")
    operator: Literal["denoise", "deblur", "upscale", "colorize", "inpaint", "slowmo"] = Field(
        description="What is to be undone, or done."
    )
    noise: float | None = Field(
        None, ge=0, le=255, description="Its standard deviation, 0 to 255; denoise estimates it if not given."
    )
    blur: float = Field(1.2, gt=0, le=8, description="deblur: standard deviation of the blur in pixels, as worked on.")
    factor: Literal[2, 4, 8] = Field(2, description="upscale: size times 2 or 4; slowmo: frames times 2, 4 or 8.")
    mask: Path | None = Field(
        None, description="inpaint: white where damaged, a picture, or a clip with a mask for each frame."
    )
    reference: Path | None = Field(None, description="colorize: the first frame in colour, or the first few.")
    method: Literal["ddrm", "pigdm", "guidance"] = Field(
        "ddrm", description="How frames are held to what is left of them."
    )
    passes: int | None = Field(
        None,
        ge=0,
        le=20,
        description="How often the network restores each frame beside the others; 2 if not given, 0 for colorize.",
    )
    steps: int = Field(2, ge=1, le=1000, description="Levels of noise in each pass: more is livelier, and slower.")

    @model_validator(mode="after")
    def _fits_the_operator(self) -> Self:
        fills = self.operator in ("inpaint", "slowmo")  # frames and pixels that are there stay as they are
        belongs = {
            "noise": self.operator in ("denoise", "deblur", "upscale"),
            "blur": self.operator == "deblur",
            "factor": self.operator in ("upscale", "slowmo"),
            "mask": self.operator == "inpaint",
            "reference": self.operator == "colorize",
            "method": not fills,
            "passes": not fills,
            "guidance": fills,
            "conditioning": fills,
            "threshold": fills,
            "sampler": fills or self.method != "ddrm",
        }
        if asked := self._asked(*(name for name, fits in belongs.items() if not fits)):
            raise ValueError(f"{asked} means nothing for --operator {self.operator}; leave it out")
        if self.operator == "colorize" and self.reference is None and not self.passes:
            raise ValueError(
                "--operator colorize needs --reference first.png, the first frame in colour; or --passes 2, for a "
                "network that knows colours by itself"
            )
        if self.operator == "inpaint" and self.mask is None:
            raise ValueError("--operator inpaint needs --mask mask.png, white where the picture is damaged")
        if self.operator == "upscale" and self.factor == 8:
            raise ValueError("--operator upscale takes --factor 2 or 4")
        return self

    @property
    def num_passes(self) -> int:
        """`passes`, or the best number on clips of train splits: where flow carries colours, more harms."""
        return self.passes if self.passes is not None else 0 if self.operator == "colorize" else 2


class Generate(Task):
    """Make a new clip from nothing."""

    kind: Literal["generate"] = "generate"
    frames: int = Field(16, ge=1, le=100_000, description="Frames to make.")
    fps: float = Field(10, gt=0, le=1000, description="Frame rate of the result.")
    width: int = Field(64, ge=16, le=1024, description="Width in pixels, rounded to what the network can do.")
    height: int = Field(64, ge=16, le=1024, description="Height in pixels, likewise.")


class Demo(Sampling):
    """Render a small clip, continue it, and write the video and a contact sheet beside the truth."""

    kind: Literal["demo"] = "demo"
    seed: int | None = Field(0, ge=0, lt=2**63, description="Same seed, same result.")
    overwrite: bool = Field(False, description="Replace demo.mp4, demo.png and demo.context.mkv.")


class Evaluate(Sampling):
    """Measure a checkpoint on clips it has not seen, beside baselines, by a named protocol."""

    kind: Literal["evaluate"] = "evaluate"
    data: tuple[Path, ...] = Field(
        description="real-v1, restore-v1: folders of clips; mcvd-digits: the folder of the MNIST files."
    )
    seed: int | None = Field(0, ge=0, lt=2**63, description="Same seed, same figures.")
    protocol: Literal["real-v1", "mcvd-digits", "restore-v1"] = Field(
        "real-v1", description="What is asked and how it is judged."
    )
    clips: int | None = Field(None, ge=1, description="At most this many clips of each folder.")
    samples: int = Field(4, ge=1, le=100, description="Samples of each window; MCVD takes 10.")
    report: Path | None = Field(None, description="Write all figures to this JSON file.")
    sheet: Path | None = Field(None, description="Write contact sheets into this folder.")
    overwrite: bool = Field(False, description="Replace an existing report and sheets.")


class Bpd(Reading):
    """Measure how many bits per dimension clips take under a checkpoint, made from nothing."""

    kind: Literal["bpd"] = "bpd"
    input: tuple[Path, ...] = Field(min_length=1, description="Clips, or folders of clips.")
    checkpoint: str = Field("motion", description="A shipped checkpoint, or the folder of one.")
    frames: int | None = Field(
        None, ge=1, le=256, description="Frames of each clip, from its start; as many as the network was trained on."
    )
    method: Literal["ode", "vlb", "both"] = Field(
        "both", description="ode: density along the flow; vlb: the variational bound in its three parts."
    )
    steps: int = Field(20, ge=2, le=1000, description="Noise levels of the flow; the bound takes three times as many.")
    probes: int = Field(1, ge=1, le=1000, description="Random probes of the flow's divergence, a backward pass each.")
    seed: int = Field(0, ge=0, lt=2**63, description="Same seed, same figures.")
    device: DeviceName = Field("auto", description="auto, cpu, cuda, cuda:1 or mps.")
    threads: int | None = Field(None, ge=1, le=256, description="CPU threads.")


TASKS: dict[str, type[Task]] = {
    "predict": Predict,
    "interpolate": Interpolate,
    "infill": Infill,
    "loop": Loop,
    "edit": Edit,
    "vary": Vary,
    "morph": Morph,
    "restore": Restore,
    "generate": Generate,
}


# ---------------------------------------------------------------------------------------------------------------------
# Training


class Data(Settings):
    """One source of training clips and its weight in the mixture."""

    source: Literal["moving_layers", "moving_mnist", "packed"]
    weight: float = Field(1.0, gt=0)
    path: Path | None = Field(
        None, description="packed: the packed cache; moving_mnist: the folder of the MNIST files."
    )
    strides: tuple[int, ...] = Field((1, 2, 3), description="packed: take every n-th frame, drawn per clip.")
    spaced: float = Field(0.0, ge=0, le=1, description="Share of clips with uneven gaps between frames.")


class Levels(Settings):
    """How noise levels are drawn and weighted in training."""

    draw: Literal[
        "lognormal",
        "log_snr",
        "linear",
        "vp",
        "subvp",
        "ve",
        "cosine",
        "shifted_cosine",
        "sigmoid",
        "edm",
        "flow",
        "linear_table",
        "scaled_linear_table",
        "cosine_table",
    ] = Field("lognormal", description="log_snr: uniform in log s between the ends; a schedule: uniform in its time.")
    mean: float = Field(0.0, description="lognormal: mean of log(s / sd), sd the spread of the guess.")
    std: float = Field(1.4, gt=0)
    stratified: bool = True
    loss_aware: bool = Field(False, description="Draw more often where losses were large, weighed less by as much.")
    weight: Literal["f", "eps", "v", "x0", "min_snr", "truncated_snr", "sigmoid", "likelihood", "vlb"] = "f"
    min: float = Field(0.02, gt=0, description="Smallest s.")
    max_ratio: float = Field(20.0, gt=1, description="Largest s over the largest spread of the guess.")


class Train(Settings):
    """Train a network on clips. Stops cleanly, resumes exactly, and keeps its best state."""

    kind: Literal["train"] = "train"
    out: Path = Field(Path("runs/model"), description="Run folder: states, log, samples. A run in it is resumed.")
    data: tuple[Data, ...] = (Data(source="moving_layers"),)
    network: Literal["unet", "lucid"] = "unet"
    model: dict[str, Any] = Field(
        default_factory=dict, description="Config of the network (videodiff.models.*.Config)."
    )
    spread: dict[str, Any] = Field(default_factory=dict, description="videodiff.guess.Spread.")
    levels: Levels = Levels()
    masks: dict[MaskName, Annotated[float, Field(ge=0)]] = {
        "half": 0.25,
        "past": 0.15,
        "future": 0.1,
        "both_ends": 0.1,
        "spaced_set": 0.2,
        "random_set": 0.08,
        "boxes": 0.07,
        "nothing": 0.05,
    }
    frames: int = Field(16, ge=1, le=256, description="Frames in a training clip.")
    sizes: tuple[tuple[int, int], ...] = Field(((64, 64),), description="(height, width), one drawn for each step.")
    batch: int = Field(8, ge=1, le=4096)
    accumulate: int = Field(1, ge=1, le=1024, description="Batches added up for one step.")
    steps: int = Field(10_000, ge=1, description="Optimizer steps.")
    warmup: int = Field(100, ge=0)
    decay: int = Field(0, ge=0, description="Cosine decay to 0 over the last steps; 0 keeps the rate constant.")
    rate: float = Field(1e-3, gt=0, description="Learning rate.")
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    ema: float = Field(0.999, ge=0, lt=1, description="Decay of the weight average, reached after a warm-up.")
    move_weight: float = Field(0.2, ge=0, description="Weight of |base' - x0|^2 / sd^2, which teaches the warp.")
    seed: int = 0
    device: DeviceName = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: int | None = Field(None, ge=1, le=256)
    recompute: bool = Field(False, description="Recompute activations in the backward pass: less memory, more time.")
    minutes: float | None = Field(None, gt=0, description="Stop cleanly after this long.")
    save_minutes: float = Field(10.0, gt=0, description="Minutes between saved states.")
    keep: int = Field(2, ge=1, description="Newest states to keep, beside the best one.")
    export: Path | None = Field(None, description="Folder that gets the EMA weights of the best state, alone.")
    shard_mb: float = Field(15.0, gt=0, description="Largest file of a saved state.")
    log_every: int = Field(20, ge=1)
    sample_minutes: float = Field(20.0, gt=0, description="Minutes between sample sheets.")

    @model_validator(mode="after")
    def _something_to_learn(self) -> Train:
        if not self.data or not self.sizes:
            raise ValueError("data and sizes must have at least one entry")
        if not 0 < sum(self.masks.values()) < float("inf"):
            raise ValueError("masks: at least one weight must be above 0")
        return self


REQUESTS: dict[str, type[Settings]] = {
    **TASKS,
    "demo": Demo,
    "train": Train,
    "evaluate": Evaluate,
    "bpd": Bpd,
}


# ---------------------------------------------------------------------------------------------------------------------
# Reading requests from outside


def validate(
    kind: type[T], values: Any, error: type[UserError] = UserError, where: str = "settings", known_only: bool = True
) -> T:
    """`values` (parsed JSON) as a Settings model or plain dataclass, or one clear line of `error`."""
    fields = getattr(kind, "model_fields", None) or getattr(kind, "__dataclass_fields__", {})
    if isinstance(values, Mapping) and known_only and kind is not dict:
        for name in values:
            if name not in fields:
                close = difflib.get_close_matches(str(name), list(fields), 1)
                hint = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(fields)}"
                raise error(f"{where}: no setting {str(name)[:60]!r}{hint}")
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as problem:
        raise error(f"{where}: {first_problem(problem)}") from problem


def first_problem(problem: ValidationError) -> str:
    """The first complaint of pydantic, in words: which setting, what was given, what is possible."""
    first = problem.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        option = name if "." in name else f"--{name.replace('_', '-')}"
        return f"{option} is needed and was not given"
    if not name:
        return message
    return f"{name}: {message[0].lower()}{message[1:]} (given {str(first['input'])[:80]!r})"


def load(kind: type[T], file: Path) -> T:
    """Settings from a JSON file."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise UserError(f"{file} cannot be read as a settings file: {problem}; it must hold a JSON object") from problem
    return validate(kind, values, where=str(file))
