"""Which sampler is most accurate for its network evaluations: ours beside the schedulers of diffusers, in one run.

python benchmarks/samplers.py mixture VECTORS               # exact denoiser: VECTORS/gmm16.npz or gmm2.npz (--problem)
python benchmarks/samplers.py network motion                # a checkpoint: distance to its own 200-step solution
python benchmarks/samplers.py network digits --mnist DIR

The first needs the extra `diffusers`. Its error is the median over trajectories of the RMS difference from the exact
solution of the probability flow, over the spread of the data. The schedulers get the most favourable reading: the exact
denoiser at the very level they stand on, never a rounded timestep.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from videodiff import masks
from videodiff.datasets.moving_layers import MovingLayers
from videodiff.datasets.moving_mnist import MovingMNIST, load_images
from videodiff.noise import NoiseSource, linear
from videodiff.pipeline import fill_canvas, make_levels, open_model
from videodiff.sampling import DEFAULT_PLAN, DEFAULT_SAMPLER, PLANS, SAMPLERS, make_plan, sample
from videodiff.settings import Predict
from videodiff.types import Canvas, Denoise

EVALUATIONS = (5, 8, 10, 15, 20, 25, 50)


def deterministic() -> list[str]:
    """The samplers whose result does not depend on the noise drawn on the way, each under its first name."""

    def result(name: str, seed: int) -> Tensor:
        z, plan = torch.ones(1, 1), SAMPLERS[name].replan(make_plan(DEFAULT_PLAN, 1, 0.1, 5))
        *_, last = sample(lambda z, s: z / 2, z, plan, SAMPLERS[name].stepper, NoiseSource((seed,)))
        return last.z

    first = {(row.stepper, row.replan): name for name, row in reversed(SAMPLERS.items())}
    return [name for name in SAMPLERS if name in first.values() and torch.equal(result(name, 0), result(name, 1))]


# ---------------------------------------------------------------------------------------------------------------------
# The mixture, and the error of any sampler on it


def mixture(data: dict[str, np.ndarray]) -> Denoise:
    """E[x0 | z] of sum_k w_k N(m_k, C_k), for z [b d] and s [b], in float64."""
    weights, means, covs = (torch.from_numpy(data[key]) for key in ("weights", "means", "covs"))
    variances, frames = torch.linalg.eigh(covs)
    centres = torch.einsum("kij,ki->kj", frames, means)

    def denoise(z: Tensor, s: Tensor) -> Tensor:
        total = variances + s.double()[:, None, None] ** 2
        offset = torch.einsum("kij,bi->bkj", frames, z.double()) - centres
        log_p = weights.log() - 0.5 * (offset**2 / total + total.log()).sum(-1)
        return torch.einsum("kij,bkj,bk->bi", frames, centres + variances / total * offset, log_p.softmax(-1))

    return denoise


# ---------------------------------------------------------------------------------------------------------------------
# Schedulers of diffusers

MULTISTEP = {"algorithm_type": "dpmsolver++", "solver_order": 2, "lower_order_final": True}
PLAIN_MULTISTEP = {"algorithm_type": "dpmsolver", "solver_order": 2, "final_sigmas_type": "sigma_min"}
SCHEDULERS: dict[str, tuple[str, dict[str, object]]] = {
    "DDIM trailing": ("DDIMScheduler", {"timestep_spacing": "trailing", "clip_sample": False}),
    "PNDM trailing": ("PNDMScheduler", {"skip_prk_steps": True, "timestep_spacing": "trailing"}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "LMS karras": ("LMSDiscreteScheduler", {"use_karras_sigmas": True}),
    "Heun karras": ("HeunDiscreteScheduler", {"use_karras_sigmas": True}),
    "KDPM2 karras": ("KDPM2DiscreteScheduler", {"use_karras_sigmas": True}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", MULTISTEP),
    "DPM++ 2M karras": ("DPMSolverMultistepScheduler", {**MULTISTEP, "use_karras_sigmas": True}),
    "DPM++ 2M lu": ("DPMSolverMultistepScheduler", {**MULTISTEP, "use_lu_lambdas": True}),
    "DPM++ 3M karras": ("DPMSolverMultistepScheduler", {**MULTISTEP, "solver_order": 3, "use_karras_sigmas": True}),
    "DPM++ 3M lu": ("DPMSolverMultistepScheduler", {**MULTISTEP, "solver_order": 3, "use_lu_lambdas": True}),
    "DPM 2M karras": ("DPMSolverMultistepScheduler", {**PLAIN_MULTISTEP, "use_karras_sigmas": True}),
    "DPM 2M lu": ("DPMSolverMultistepScheduler", {**PLAIN_MULTISTEP, "use_lu_lambdas": True}),
    "DPM 3M karras": ("DPMSolverMultistepScheduler", {**PLAIN_MULTISTEP, "solver_order": 3, "use_karras_sigmas": True}),
    "DPM 3M lu": ("DPMSolverMultistepScheduler", {**PLAIN_MULTISTEP, "solver_order": 3, "use_lu_lambdas": True}),
    "DPM++ 3S karras": ("DPMSolverSinglestepScheduler", {"solver_order": 3, "use_karras_sigmas": True}),
    "DEIS 2": ("DEISMultistepScheduler", {"solver_order": 2}),
    "DEIS 2 karras": ("DEISMultistepScheduler", {"solver_order": 2, "use_karras_sigmas": True}),
    "DEIS 3 karras": ("DEISMultistepScheduler", {"solver_order": 3, "use_karras_sigmas": True}),
    "UniPC 2": ("UniPCMultistepScheduler", {"solver_order": 2}),
    "UniPC 2 karras": ("UniPCMultistepScheduler", {"solver_order": 2, "use_karras_sigmas": True}),
    "UniPC 3 karras": ("UniPCMultistepScheduler", {"solver_order": 3, "use_karras_sigmas": True}),
}
IN_Z = ("Euler", "LMS", "Heun", "KDPM2")
"""Schedulers whose sample is z = x / alpha; that of the others is x."""


def run_scheduler(name: str, n: int, denoise: Denoise, x: Tensor, alphas: np.ndarray) -> tuple[Tensor, int]:
    """(final sample, evaluations) of a scheduler asked for n steps from x [b d] at the last training step."""
    import diffusers

    kind, options = SCHEDULERS[name]
    scheduler = getattr(diffusers, kind)(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, **options)
    scheduler.set_timesteps(n)
    in_z = kind.startswith(IN_Z)
    if in_z:
        x = x * math.sqrt(1 + float(scheduler.sigmas[0]) ** 2)
    for count, t in enumerate(scheduler.timesteps):  # noqa: B007 - counted for its last value
        scheduler.scale_model_input(x, t)  # some keep their place by it
        if kind in ("DDIMScheduler", "PNDMScheduler"):
            s = math.sqrt(1 / alphas[int(t)] ** 2 - 1)
        elif kind == "KDPM2DiscreteScheduler" and not scheduler.state_in_first_order:
            s = float(scheduler.sigmas_interpol[scheduler.step_index])
        else:
            s = float(scheduler.sigmas[scheduler.step_index if scheduler.step_index is not None else 0])
        z = x.double() if in_z else x.double() * math.sqrt(1 + s * s)
        eps = (z - denoise(z, torch.full((len(z),), s, dtype=torch.float64))) / s
        x = scheduler.step(eps.to(x.dtype), t, x).prev_sample
    return x.double(), count + 1


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def steps_for(name: str, n: int, walk: Callable[[int], object]) -> int | None:
    """The most steps of a sampler that cost at most n evaluations; None if it cannot be said beforehand."""
    row = SAMPLERS[name]
    for steps in range(n, 0, -1):
        cost = row.stepper.evaluations(row.replan(walk(steps)))
        if cost is None:
            return None
        if cost <= n:
            return steps
    return None


def print_table(title: str, rows: dict[str, list[float | None]], columns: tuple[int, ...]) -> None:
    """Rows of a Markdown table."""
    print(f"\n| {title} | " + " | ".join(map(str, columns)) + " |")
    print("|---|" + "---|" * len(columns))
    for name, values in rows.items():
        shown = ["" if v is None else f"{v:.2g}" for v in values]
        print(f"| {name} | " + " | ".join(shown) + " |", flush=True)


def on_mixture(vectors: Path, problem: str) -> None:
    """Error against evaluations on a mixture, ours and theirs, linear schedule from its last training step."""
    data = dict(np.load(vectors / f"{problem}.npz"))
    denoise, alphas = mixture(data), np.load(vectors / "schedules.npz")["linear/alpha"]
    x, levels = torch.from_numpy(data["linear/x"]), data["linear/s"].tolist()
    start, exact, std = x[0] / data["linear/alpha"][0], x[-1], data["data"].std()

    def error(z: Tensor) -> float:
        return float(((z - exact) ** 2).mean(1).sqrt().median() / std)

    theirs: dict[str, list[float | None]] = {}
    for name in SCHEDULERS:
        costs: dict[int, float] = {}
        for n in EVALUATIONS:
            for steps in range(n, 0, -1):
                z, cost = run_scheduler(name, steps, denoise, x[0], alphas)
                if cost <= n:
                    costs[n] = error(z)
                    break
        theirs[name] = [costs.get(n) for n in EVALUATIONS]
    print_table(f"diffusers, {problem}", theirs, EVALUATIONS)

    ours: dict[str, list[float | None]] = {}
    for name in deterministic():
        for walk in (DEFAULT_PLAN, "karras", "quadratic_t") if name == DEFAULT_SAMPLER else (DEFAULT_PLAN,):
            values: list[float | None] = []
            for n in EVALUATIONS:
                levels_of = lambda k, walk=walk: make_plan(walk, levels[0], levels[-2], k, linear())  # noqa: E731
                steps = steps_for(name, n, levels_of)
                if steps is None:
                    values.append(None)
                    continue
                plan = SAMPLERS[name].replan(levels_of(steps))
                *_, last = sample(denoise, start.clone(), plan, SAMPLERS[name].stepper, NoiseSource((0,) * len(start)))
                values.append(error(last.z))
            if any(values):  # the adaptive ones take as many as they need
                ours[f"{name}, {walk}"] = values
    print_table(f"ours, {problem}", ours, EVALUATIONS)

    best = [min(v for row in theirs.values() if (v := row[i]) and math.isfinite(v)) for i in range(len(EVALUATIONS))]
    default = ours[f"{DEFAULT_SAMPLER}, {DEFAULT_PLAN}"]
    ratios = [mine / other for mine, other in zip(default, best, strict=True) if mine is not None]
    print_table("", {"best of diffusers": list(best), f"{DEFAULT_SAMPLER} over it": list(ratios)}, EVALUATIONS)


def canvases(checkpoint: str, mnist: Path | None, clips: int) -> Iterator[tuple[str, Canvas]]:
    """What is asked of a network: the second half of rendered clips given the first, and clips from nothing."""
    generator = torch.Generator().manual_seed(0)
    source = MovingMNIST(load_images(mnist)) if mnist is not None else MovingLayers()
    frames, index = source.batch(generator, clips, 16, (64, 64))
    for name in ("half", "nothing"):
        known = masks.MASKS[name](generator, 16, 64, 64).expand(clips, -1, -1, -1, -1)
        yield name, Canvas(frames * known, known, index)


def on_network(checkpoint: str, mnist: Path | None, clips: int, names: list[str]) -> None:
    """RMS distance over wanted pixels to the 200-step solution, in shares of the distance between two samples."""
    evaluations = (5, 8, 10, 15, 20, 30)
    base = {"input": "-", "checkpoint": checkpoint, "seed": 0, "precision": "float32"}
    model = open_model(Predict(**base))
    for question, canvas in canvases(checkpoint, mnist, clips):

        def result(name: str, walk: str, steps: int, seed: int = 0, canvas: Canvas = canvas) -> Tensor:
            settings = Predict(**base, sampler=name, walk=walk, steps=steps)
            *_, last = fill_canvas(model, canvas, settings, NoiseSource(tuple(range(seed, seed + clips))))
            return last.z

        wanted = ~canvas.known.expand_as(canvas.frames)

        def distance(a: Tensor, b: Tensor, wanted: Tensor = wanted) -> float:
            return math.sqrt(float((a - b)[wanted].square().mean()))

        exact = result(DEFAULT_SAMPLER, DEFAULT_PLAN, 200)
        apart = distance(exact, result(DEFAULT_SAMPLER, DEFAULT_PLAN, 200, seed=1000))
        rows: dict[str, list[float | None]] = {}
        for name in names:
            for walk in PLANS if name in (DEFAULT_SAMPLER, "ddim") else (DEFAULT_PLAN,):
                values: list[float | None] = []
                for n in evaluations:
                    levels_of = lambda k, walk=walk: make_levels(model, Predict(**base, walk=walk, steps=k))  # noqa: E731
                    steps = steps_for(name, n, levels_of)
                    values.append(None if steps is None else distance(result(name, walk, steps), exact) / apart)
                rows[f"{name}, {walk}"] = values
        print_table(f"{checkpoint}, {question} known (two samples are {apart:.3f} apart)", rows, evaluations)


def main() -> None:
    """Read the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = parser.add_subparsers(dest="way", required=True)
    exact = ways.add_parser("mixture")
    exact.add_argument("vectors", type=Path)
    exact.add_argument("--problem", default="gmm16")
    network = ways.add_parser("network")
    network.add_argument("checkpoint")
    network.add_argument("--mnist", type=Path, help="folder of the MNIST files, for digits")
    network.add_argument("--clips", type=int, default=4)
    network.add_argument(
        "--samplers", nargs="+", default=["ddim", "dpm4", "dpm3", "deis", "dpmpp_2m", "unipc", "unipc_3", "heun"]
    )
    given = parser.parse_args()
    if given.way == "mixture":
        on_mixture(given.vectors, given.problem)
    else:
        on_network(given.checkpoint, given.mnist, given.clips, given.samplers)


if __name__ == "__main__":
    main()
