"""What the app costs: its start, a job through a warm worker against the bare library, how soon a cancel is obeyed.

python benchmarks/app.py [--checkpoint motion] [--size 64] [--frames 40] [--rounds 7] [--cancels 20] [--jobs 100]

Bare runs and jobs alternate, with one thread each, and the ratios are those of their medians. `job` counts from the
claim to the end, previews, journal, thumbnail and table included; `asked` from the request to the end, as a user sees
it; `job cpu` the time of the processor, which other work on the machine disturbs less. The server is started as a user
starts it, and looked at again after `--jobs` small jobs.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np

from videodiff import service
from videodiff.events import Progress
from videodiff.jobs import CANCELLED, DONE, FAILED, RUNNING, Store
from videodiff.settings import Generate
from videodiff.supervisor import Supervisor, memory
from videodiff.worker import Keeper


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="motion")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cancels", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=100)
    given = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "data")
        watching = Supervisor(store, "cpu")
        watching.start()
        try:
            measure(store, watching, given, Path(folder))
        finally:
            watching.stop(kill=True)
        serve(Path(folder) / "served", given)


def serve(folder: Path, given: argparse.Namespace) -> None:
    """The server's start, and what many jobs leave in it."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "videodiff", "ui", "--data", str(folder), "--port", "0", "--no-open"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        note = folder / "server.json"
        while not note.is_file():
            assert server.poll() is None, "the app ended"
            time.sleep(0.01)
        with urllib.request.urlopen(json.loads(note.read_text())["url"]) as page:
            page.read()
        print(f"page answers after     {time.perf_counter() - began:8.3f} s   server {in_megabytes(server.pid)}")
        store = Store(folder)
        request = Generate(checkpoint=given.checkpoint, width=64, height=64, frames=64, steps=8, threads=1)
        began, seen = time.perf_counter(), set()
        id = store.add(request).id
        while store.get(id).state != DONE:
            if (picture := store.preview(id)) is not None:
                began = began if seen else time.perf_counter()
                seen.add(picture)
            time.sleep(0.01)
        print(f"previews a second      {len(seen) / (time.perf_counter() - began):8.2f}")
        before = cached(store)
        small = request.model_copy(update={"frames": 3, "steps": 1})
        for id in [store.add(small.model_copy(update={"seed": number})).id for number in range(given.jobs)]:
            wait(store, id, DONE)
        grown = cached(store) - before
        print(f"after {given.jobs:3} jobs         cache {grown:+} bytes   server {in_megabytes(server.pid)}")
        Supervisor(store).stop(kill=True)
    finally:
        server.send_signal(signal.SIGTERM)  # an interrupt is ignored by what a shell began behind itself
        server.wait(30)


def cached(store: Store) -> int:
    return sum(file.stat().st_size for file in store.cache.rglob("*") if file.is_file())


def in_megabytes(pid: int) -> str:
    return f"{(memory(pid) or 0) / 1e6:.0f} MB"


def measure(store: Store, watching: Supervisor, given: argparse.Namespace, folder: Path) -> None:
    request = Generate(
        checkpoint=given.checkpoint,
        seed=0,
        width=given.size,
        height=given.size,
        frames=given.frames,
        threads=1,
        device="cpu",
    )
    keeper = Keeper(lambda _: None)
    bare, bare_cpu, job, job_cpu, asked, evaluations = [], [], [], [], [], 0
    for number in range(given.rounds + 1):
        began, cpu = time.perf_counter(), time.thread_time()
        plain = request.model_copy(update={"output": folder / f"{number}.mp4"})
        for event in service.run(plain, opened=keeper):
            evaluations = event.total if isinstance(event, Progress) else evaluations
        bare.append(time.perf_counter() - began)
        bare_cpu.append(time.thread_time() - cpu)
        pid = watching.worker_state().get("pid")
        began, cpu = time.perf_counter(), cpu_seconds(pid)
        done = wait(store, store.add(request).id, DONE)
        asked.append(time.perf_counter() - began)
        assert done.started is not None
        assert done.finished is not None
        job.append(done.finished - done.started)
        job_cpu.append(cpu_seconds(pid) - cpu)
    middle, middle_cpu = (statistics.median(times[1:]) for times in (bare, bare_cpu))  # the first ones load
    print(f"bare    {middle:8.3f} s   {middle_cpu:.3f} s of the processor")
    for name, times, base in (("job", job, middle), ("job cpu", job_cpu, middle_cpu), ("asked", asked, middle)):
        print(f"{name:7} {statistics.median(times[1:]):8.3f} s   {statistics.median(times[1:]) / base:.3f} of bare")

    late, chance = [], random.Random(0)
    for number in range(given.cancels):
        long = store.add(request.model_copy(update={"frames": 5000, "seed": number}))
        wait(store, long.id, RUNNING, done=1)
        time.sleep(chance.uniform(0, 1))  # progress is told just before an evaluation, so at once is always latest
        began = time.perf_counter()
        store.cancel(long.id)
        wait(store, long.id, CANCELLED)
        late.append(time.perf_counter() - began)
    print(f"an evaluation          {middle / evaluations:8.3f} s")
    print(f"cancel, 95 % within    {np.percentile(late, 95):8.3f} s   median {statistics.median(late):.3f} s")
    print(f"memory of the worker   {(watching.worker_state()['memory'] or 0) / 1e6:8.0f} MB")


def wait(store: Store, id: int, state: str, done: int = 0):
    """The job once it is in a state, with at least so much of it done."""
    while (job := store.get(id)).state != state or job.done < done:
        assert job.state != FAILED, job.error
        time.sleep(0.01)
    return job


def cpu_seconds(pid: int | None) -> float:
    """Seconds of the processor that a process has taken: of use where a machine is shared. 0 where nobody says."""
    table = Path(f"/proc/{pid}/stat")
    if pid is None or not table.exists():
        return 0.0
    user, system = table.read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
