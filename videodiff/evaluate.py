"""Measuring a checkpoint: clips it has not seen, named protocols, baselines in the same run, intervals by clip.

    for event in evaluate(settings): ...     # Progress, Note, a Metric per set and task, Saved; returns the report
    print(as_table(report))                  # markdown, for a model card

A protocol (`questions.py`) says which windows are taken of which clips, what is asked of each and which PSNR counts.
Every figure is the mean over clips of the mean over a clip's windows, of 8-bit frames: the wanted ones for PSNR and
SSIM, all from the last known one on for motion. Noise is keyed by seed, set, clip, window and sample, so a figure
does not depend on what else is measured.
"""

import hashlib
import json
import math
import platform
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np

from videodiff import __version__, baselines, video
from videodiff.errors import UnreadableInput, UserError
from videodiff.events import Event, Metric, Note, Progress, Saved
from videodiff.files import replace_file
from videodiff.metrics import motion, psnr, ssim
from videodiff.metrics.interval import bootstrap
from videodiff.pipeline import Model, never, open_model
from videodiff.questions import PROTOCOLS, Damaged, Question
from videodiff.settings import Evaluate

Figures = dict[str, float]
Scores = dict[str, Figures]
"""Figures by who made the frames: `single` (mean over the samples), `best`, `mean_of_samples`, and the baselines."""
OURS = ("single", "best", "mean_of_samples")


# ---------------------------------------------------------------------------------------------------------------------
# The story


def evaluate(settings: Evaluate, cancelled: Callable[[], bool] = never) -> Generator[Event, None, dict[str, Any]]:
    """Measure a checkpoint; returns the report. Close it to stop: then nothing is written but finished sheets."""
    # What is missing is said before the work is done, not after.
    ssim.check()
    baselines.check()
    protocol = PROTOCOLS[settings.protocol]
    sets = protocol.clips(settings)
    sheets = {
        (name, task): settings.sheet / f"{name}.{task}.png"
        for name in sets
        for task in protocol.questions
        if settings.sheet is not None
    }
    outputs = [*sheets.values(), *([settings.report] if settings.report else [])]
    for file in outputs:
        if file.exists() and not settings.overwrite:
            raise UserError(f"{file} exists; choose another name, or allow it to be replaced with --overwrite")
    model = open_model(settings)
    for file in outputs:
        file.parent.mkdir(parents=True, exist_ok=True)
    if settings.average > 1:
        yield Note("--average is not used: single samples and the mean of all are both measured")

    began, done, total = time.monotonic(), 0, sum(map(len, sets.values()))
    report: dict[str, Any] = {**describe(model, settings), "sets": {}}
    for name, clips in sets.items():
        # Answer every question on every window
        scores: dict[str, dict[str, list[Scores]]] = {task: {} for task in protocol.questions}
        skipped: dict[str, str] = {}
        size = (0, 0)
        for clip, read in clips.items():
            yield Progress(done, total, "clips")
            try:
                cut = read(model)
            except UnreadableInput as error:
                skipped[clip] = str(error)
                yield Note(f"skipped in {name}: {error}")
                cut = []
            for task, question in protocol.questions.items() if cut else ():
                asked = np.stack(cut)[:, : question.length]
                samples = yield from collect(
                    question.answer(model, *canvases(asked, settings, name, clip), settings, cancelled),
                    Progress(done, total, "clips"),
                )
                for frames, some in zip(asked, np.split(samples, len(asked)), strict=True):
                    mean = to_bytes(some.mean(axis=0))
                    scores[task].setdefault(clip, []).append(judge(frames, question, some, mean, protocol.binary))
                    if (sheet := sheets.pop((name, task), None)) is not None:
                        replace_file(sheet, draw(frames, question, some[0], mean))
                        yield Saved(str(sheet), "sheet")
                size = asked.shape[2:4]
            done += 1
        yield Progress(done, total, "clips")

        # Sum up the set
        if not scores[next(iter(scores))]:
            yield Note(f"nothing measured in {name}: all of its clips were skipped")
            continue
        tasks = {task: sum_up(by_clip) for task, by_clip in scores.items()}
        report["sets"][name] = {"height": size[0], "width": size[1], "skipped": skipped, "tasks": tasks}
        for task, result in tasks.items():
            values = headline(result, protocol.psnr, protocol.questions[task].rivals)
            yield Metric(result["clips"], {k: v for k, v in values.items() if math.isfinite(v)}, f"{name} {task}")
    if not report["sets"]:
        raise UnreadableInput("no clip could be measured; the notes say why")
    report["seconds"] = round(time.monotonic() - began, 1)
    if settings.report:
        replace_file(settings.report, json.dumps(rounded(report), indent=1, allow_nan=False).encode() + b"\n")
        yield Saved(str(settings.report), "report")
    return rounded(report)


def describe(model: Model, settings: Evaluate) -> dict[str, Any]:
    """Everything that makes the figures again."""
    packages = ("torch", "numpy", "scikit-image", "opencv-python-headless")
    return {
        "protocol": settings.protocol,
        "samples": settings.samples,
        "psnr": PROTOCOLS[settings.protocol].psnr,
        "settings": settings.as_json(),
        "checkpoint": {"name": model.bundle.name, "digest": model.bundle.digest},
        "device": model.device.type,
        "precision": str(model.precision).removeprefix("torch."),
        "versions": {"videodiff": __version__, "python": platform.python_version(), **installed(packages)},
    }


def installed(packages: Iterable[str]) -> dict[str, str]:
    """The versions of packages, as far as they are known by these names."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except ModuleNotFoundError:  # OpenCV comes under several names
            continue
    return found


# ---------------------------------------------------------------------------------------------------------------------
# One window


def canvases(asked: np.ndarray, settings: Evaluate, name: str, clip: str) -> tuple[np.ndarray, list[int]]:
    """Windows [w t h w c] of a clip, each as often in a row as samples are wanted, and the seed of each."""
    places = [(window, sample) for window in range(len(asked)) for sample in range(settings.samples)]
    return np.repeat(asked, settings.samples, axis=0), [noise_key(settings.seed, name, clip, *p) for p in places]


def collect(parts: Iterator[np.ndarray], sign: Progress) -> Generator[Event, None, np.ndarray]:
    """All parts in one, with a sign of life after each."""
    done = []
    for part in parts:
        done.append(part)
        yield sign
    return np.concatenate(done)


def noise_key(*parts: object) -> int:
    """A seed for one sample of one window."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest(), "big")


def judge(
    frames: np.ndarray, question: Question | Damaged, samples: np.ndarray, mean: np.ndarray, binary: bool = False
) -> Scores:
    """The figures of samples uint8 [n wanted h w c], of their mean, and of the baselines, against frames [t h w c]."""
    score = partial(compare, frames, question, binary=binary)
    each = [score(sample) for sample in samples]
    best = {name: max(figures[name] for figures in each) for name in ("psnr", "psnr_clip", "ssim")}
    made = {name: score(result) for name, result in question.baselines(frames).items()}
    return {"single": average(each), "best": best, "mean_of_samples": score(mean), **made}


def compare(frames: np.ndarray, question: Question | Damaged, result: np.ndarray, binary: bool = False) -> Figures:
    """All figures of the wanted frames `result`."""
    truth = frames[list(question.wanted)]
    whole = put_in(frames, question, result)
    first = max(question.wanted[0] - 1, 0)  # the last known frame before
    return {
        **psnr.compute(truth, result),
        **ssim.compute(truth, result, binary),
        **motion.compute(frames[first:], whole[first:]),
    }


def put_in(frames: np.ndarray, question: Question | Damaged, result: np.ndarray) -> np.ndarray:
    """The window with `result` at the wanted places."""
    whole = frames.copy()
    whole[list(question.wanted)] = result
    return whole


def draw(frames: np.ndarray, question: Question | Damaged, sample: np.ndarray, mean: np.ndarray) -> bytes:
    """A contact sheet: truth, the first rival, one sample, the mean of samples, in rows."""
    rival = question.rivals[0]
    guess = question.baselines(frames)[rival]
    rows = {"truth": None, rival: guess, "sample": sample, "mean": mean}
    pictures = [frames if result is None else put_in(frames, question, result) for result in rows.values()]
    labels = [
        f"{row.replace('_', ' ')}" if place == 0 else f"{place}" + ("" if place in question.known else " new")
        for row in rows
        for place in range(len(frames))
    ]
    return video.contact_sheet(np.concatenate(pictures), len(frames), labels)


def to_bytes(frames: np.ndarray) -> np.ndarray:
    return np.round(frames).clip(0, 255).astype(np.uint8)


# ---------------------------------------------------------------------------------------------------------------------
# Many windows


def average(figures: Sequence[Figures]) -> Figures:
    """The mean of each figure; of the motion ratio, the ratio of the means."""
    means = {name: float(np.mean([one[name] for one in figures])) for name in figures[0]}
    if "motion" in means:
        means["motion"] = means["motion_result"] / (means["motion_truth"] or math.nan)
    return means


def sum_up(by_clip: Mapping[str, Sequence[Scores]]) -> dict[str, Any]:
    """A set's figures for one task: means over clips, intervals, and differences to the baselines pair by pair."""
    clips = {
        clip: {who: average([scores[who] for scores in found]) for who in found[0]} for clip, found in by_clip.items()
    }
    everyone = list(next(iter(clips.values())))
    names = ("psnr", "psnr_clip", "ssim")

    def column(who: str, name: str) -> np.ndarray:
        return np.array([clip[who][name] for clip in clips.values()])

    rivals = [who for who in everyone if who not in OURS]
    return {
        "clips": len(clips),
        "windows": sum(map(len, by_clip.values())),
        "figures": {who: average([clip[who] for clip in clips.values()]) for who in everyone},
        "intervals": {who: {name: bootstrap(column(who, name)) for name in names} for who in everyone},
        "differences": {
            who: {
                rival: {name: difference(column(who, name), column(rival, name)) for name in names} for rival in rivals
            }
            for who in ("single", "mean_of_samples")
        },
        "by_clip": {
            clip: {who: {k: v for k, v in f.items() if not k[-1].isdigit()} for who, f in scores.items()}
            for clip, scores in clips.items()
        },
    }


def difference(ours: np.ndarray, theirs: np.ndarray) -> Figures:
    """The mean of ours - theirs over clips, with its 95 % interval (nan for a single clip)."""
    low, high = bootstrap(ours - theirs)
    return {"mean": float(np.mean(ours - theirs)), "low": low, "high": high}


def headline(result: Mapping[str, Any], name: str, rivals: Sequence[str]) -> Figures:
    """The few figures that are shown while the rest is measured."""
    f = result["figures"]
    values = {
        "psnr": f["single"][name],
        "psnr_mean_of_samples": f["mean_of_samples"][name],
        "psnr_best": f["best"][name],
        **{f"psnr_{who}": f[who][name] for who in f if who not in OURS},
    }
    for rival in rivals:
        gain = result["differences"]["mean_of_samples"][rival][name]
        values |= {f"mean_over_{rival}": gain["mean"], f"mean_over_{rival}_low": gain["low"]}
    return {
        **values,
        "ssim": f["single"]["ssim"],
        "ssim_best": f["best"]["ssim"],
        "motion": f["single"]["motion"],
        "motion_mean_of_samples": f["mean_of_samples"]["motion"],
    }


def as_table(report: Mapping[str, Any]) -> str:
    """Markdown: for each task a table with a row for each set. Brackets are 95 % intervals over clips."""
    name, n = report["psnr"], report["samples"]
    tables = []
    for task, question in PROTOCOLS[report["protocol"]].questions.items():
        figures = next(iter(report["sets"].values()))["tasks"][task]["figures"]
        made = [who for who in figures if who not in OURS]
        gains = [(who, rival) for rival in question.rivals for who in ("single", "mean_of_samples")]
        spoken = {"single": "one", "mean_of_samples": f"mean of {n}", "best": f"best of {n}"}
        spoken |= {who: who.replace("_", " ") for who in made}
        columns = [
            "set",
            "clips",
            *(f"PSNR {spoken[who]}" for who in ("single", "mean_of_samples", "best", *made)),
            *(f"{spoken[who]} - {spoken[rival]}" for who, rival in gains),
            *(f"SSIM {spoken[who]}" for who in ("single", "mean_of_samples", "best", question.rivals[0])),
            *(f"motion {spoken[who]}" for who in ("single", "mean_of_samples")),
        ]
        lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
        for set_name, found in report["sets"].items():
            result = found["tasks"][task]
            f = result["figures"]
            cells = [
                set_name,
                str(result["clips"]),
                *(number(f[who][name]) for who in ("single", "mean_of_samples", "best", *made)),
                *(gain(result["differences"][who][rival][name]) for who, rival in gains),
                *(number(f[who]["ssim"], 3) for who in ("single", "mean_of_samples", "best", question.rivals[0])),
                *(number(f[who]["motion"]) for who in ("single", "mean_of_samples")),
            ]
            lines.append("| " + " | ".join(cells) + " |")
        given, asked = len(question.known), len(question.wanted)
        tables.append(f"**{task.replace('_', ' ')}** ({given} frames given, {asked} asked)\n\n" + "\n".join(lines))
    return "\n\n".join(tables) + "\n"


def number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def gain(found: Mapping[str, float | None]) -> str:
    """A difference with its sign and interval."""
    mean, low, high = (found[name] for name in ("mean", "low", "high"))
    assert mean is not None
    return f"{mean:+.2f}" + ("" if low is None or high is None else f" [{low:+.2f}, {high:+.2f}]")


def rounded(value: Any) -> Any:
    """Figures with five digits after the point; None for nan, which JSON does not know."""
    if isinstance(value, float):
        return round(value, 5) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value
