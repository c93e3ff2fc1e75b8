"""What watching costs: the time of a preview against that of a step, and the share of a run that previews take.

python benchmarks/previews.py [--checkpoint motion] [--size 64] [--rounds 20]

A preview is made at most every `pipeline.PREVIEW_SECONDS`, so a run spends at most (preview / that time) on them; where
a step takes longer, a preview follows each. Times are the least of all rounds, alternated, with one thread.
"""

import argparse
import time

import torch

from videodiff.noise import NoiseSource
from videodiff.pipeline import PREVIEW_SECONDS, fill_canvas, open_model, to_pixels
from videodiff.settings import Sampling
from videodiff.types import Canvas
from videodiff.video import jpeg


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="motion")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()

    settings = Sampling(checkpoint=given.checkpoint, seed=0, steps=given.rounds, threads=1, sampler="ddim")
    model = open_model(settings)
    frames = torch.zeros(1, model.shape(None).window, model.bundle.channels, given.size, given.size)
    known = torch.zeros(*frames.shape[:2], 1, *frames.shape[3:], dtype=torch.bool)
    known[:, : frames.shape[1] // 2] = True
    canvas = Canvas(frames, known, torch.arange(frames.shape[1])[None])

    steps, previews = [], []
    began = time.perf_counter()
    for step in fill_canvas(model, canvas, settings, NoiseSource((0,))):
        steps.append(time.perf_counter() - began)
        began = time.perf_counter()
        jpeg(to_pixels(step.x0.mean(0)))
        previews.append(time.perf_counter() - began)
        began = time.perf_counter()
    step_time, preview_time = min(steps), min(previews)
    print(f"step     {step_time * 1e3:8.2f} ms")
    print(f"preview  {preview_time * 1e3:8.2f} ms   {preview_time / step_time:.1%} of a step")
    print(f"share    {preview_time / max(PREVIEW_SECONDS, step_time):8.2%}   of a run, at most")


if __name__ == "__main__":
    main()
