"""Two processes train as one does that adds up their batches."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train import Make, clips, last, losses, make, run, tensors

from videodiff import checkpoint, parallel, train
from videodiff.errors import MissingExtra

__all__ = ["clips", "make"]  # fixtures

RANK = """
import json, os, sys
from pathlib import Path
from videodiff import train
from videodiff.models import unet
from videodiff.checkpoint import save_tensors

built, build = [], unet.build
unet.build = lambda config: built.append(build(config)) or built[-1]
settings = train.load(train.Train, Path(sys.argv[1]))
events = list(train.fit(settings))
rank = os.environ["RANK"]
folder = Path(sys.argv[2])
save_tensors(folder, f"rank{rank}", dict(built[0].named_parameters()))
(folder / f"rank{rank}.json").write_text(json.dumps([type(event).__name__ for event in events]))
"""


def test_one_process_is_alone() -> None:
    crew = parallel.team("cpu")
    assert (crew.rank, crew.size, crew.device) == (0, 1, None)
    x = torch.rand(3)
    before = x.clone()
    crew.average([x])
    assert torch.equal(x, before)


def test_without_accelerate_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.is_torchelastic_launched", lambda: True)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(MissingExtra, match=r"videodiff\[train\]") as caught:
        parallel.team("cpu")
    assert caught.value.exit_code == 7


def torchrun(*arguments: object) -> None:
    if find_spec("accelerate") is None:
        pytest.skip("accelerate is not installed (extra `train`)")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, *(str(x) for x in arguments)]
    here = {**os.environ, "PYTHONPATH": str(Path(train.__file__).parents[1])}  # a script does not see its caller's path
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=here)
    assert result.returncode == 0, result.stderr[-6000:]


def test_two_processes_are_one_that_adds_up_their_batches(make: Make, tmp_path: Path, monkeypatch: Any) -> None:
    pair = make(out=tmp_path / "pair", steps=4)
    script, file = tmp_path / "rank.py", tmp_path / "run.json"
    script.write_text(RANK)
    file.write_text(json.dumps(pair.as_json()))
    torchrun(script, file, tmp_path)

    a, b = (checkpoint.load_tensors(tmp_path, f"rank{rank}") for rank in (0, 1))
    assert all(torch.equal(a[name], b[name]) for name in a), "both processes hold the same weights"
    said = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert said[0].count("Saved") == 1
    assert said[1].count("Saved") == 0, "one of them writes"

    # The second micro-batch of a step is what the second process draws.
    step_generator = train.step_generator
    monkeypatch.setattr(
        train, "step_generator", lambda seed, step, micro, rank, device: step_generator(seed, step, 0, micro, device)
    )
    alone = make(out=tmp_path / "alone", steps=4, accumulate=2)
    events = run(alone)
    one, two = tensors(last(pair)), tensors(last(alone))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6, msg=name)
    log = [json.loads(line) for line in (pair.out / "log.jsonl").read_text().splitlines()]
    *log, measured = log
    assert measured["step"] == 4
    assert [line["loss"] for line in log] == pytest.approx(losses(events), rel=1e-5)
    assert log[-1]["clips"] == 16


@pytest.mark.slow
def test_two_processes_stop_after_their_minutes_together_and_go_on(make: Make, tmp_path: Path) -> None:
    whole, sliced = make(out=tmp_path / "whole", steps=3), make(out=tmp_path / "sliced", steps=3)
    for settings, minutes in ((whole, 60), (sliced, 1e-9), (sliced, 1e-9), (sliced, 1e-9)):
        file = tmp_path / "run.json"
        file.write_text(json.dumps(settings.as_json()))
        torchrun("-m", "videodiff.train", file, f"minutes={minutes}")
    one, two = tensors(last(whole)), tensors(last(sliced))
    assert last(sliced).name == "step-00000003"
    assert all(torch.equal(one[name], two[name]) for name in one)
