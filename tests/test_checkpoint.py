"""A checkpoint comes back as it was saved, or one clear line says why not; it is replaced at once or not at all."""

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from videodiff import checkpoint, shelf
from videodiff.checkpoint import Levels, Window
from videodiff.errors import CheckpointError, OutOfResources
from videodiff.guess import Spread
from videodiff.models import unet

MODEL = unet.Config(channels=1, widths=(16, 16), blocks_up=1, head_width=16, embedding=16)


def save(folder: Path, seed: int = 0, model: unet.Config = MODEL) -> torch.nn.Module:
    torch.manual_seed(seed)
    net = unet.build(model)
    parts = net.state_dict(), Spread(unknown=0.6), Levels(0.03, 30.0), Window(8, 16), {"seed": seed}
    checkpoint.save(folder, "unet", model, *parts)
    return net


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "net")
    return tmp_path / "net"


def change_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def refused(folder: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        checkpoint.load(str(folder))
    message = str(caught.value)
    assert caught.value.exit_code == 4
    assert "\n" not in message
    assert len(message) < 600


# ---------------------------------------------------------------------------------------------------------------------
# There and back


def test_a_network_comes_back_with_its_weights_rounded_to_bfloat16(folder: Path) -> None:
    net, bundle = save(folder), checkpoint.load(str(folder))
    for name, x in bundle.net.state_dict().items():
        assert x.dtype == torch.float32
        assert torch.equal(x, net.state_dict()[name].bfloat16().float()), name
    assert bundle.name == "net"
    assert bundle.network == "unet"
    assert bundle.model == MODEL
    assert bundle.spread == Spread(unknown=0.6)
    assert bundle.levels == Levels(0.03, 30.0)
    assert bundle.window == Window(8, 16)
    assert bundle.training == {"seed": 0}
    assert bundle.channels == 1
    assert not bundle.net.training
    assert not any(p.requires_grad for p in bundle.net.parameters())


def test_saving_what_was_loaded_changes_no_byte_of_the_weights(folder: Path, tmp_path: Path) -> None:
    b = checkpoint.load(str(folder))
    checkpoint.save(tmp_path / "copy", b.network, b.model, b.net.state_dict(), b.spread, b.levels, b.window, b.training)
    assert checkpoint.load(str(tmp_path / "copy")).digest == b.digest


def test_a_config_rebuilds_every_field(tmp_path: Path) -> None:
    model = unet.Config(1, 4, (16, 32, 16), 1, 1, (0, 2), 8, 24, 3, False, "rms")
    assert asdict(model).keys() == unet.Config.__dataclass_fields__.keys()
    save(tmp_path / "net", model=model)
    assert checkpoint.load(str(tmp_path / "net")).model == model


@pytest.mark.parametrize("limit", [100, 2000, 10**9])
def test_shards_hold_all_tensors_and_stay_below_the_limit(tmp_path: Path, limit: int) -> None:
    tensors = {f"x{i:02d}": torch.randn(10, i + 1) for i in range(20)}
    checkpoint.save_tensors(tmp_path, "part", tensors, limit)
    files = sorted(tmp_path.glob("part*"))
    for file in files:
        shard = load_file(file)
        assert sum(x.nbytes for x in shard.values()) <= limit or len(shard) == 1
    assert (len(files) == 1) == (limit == 10**9)
    loaded = checkpoint.load_tensors(tmp_path, "part", {name: x.shape for name, x in tensors.items()})
    assert all(torch.equal(loaded[name], x) for name, x in tensors.items())


def test_what_ships_is_in_files_below_ten_megabytes(tmp_path: Path) -> None:
    checkpoint.save_tensors(tmp_path, "model", {f"x{i}": torch.zeros(1_000_000) for i in range(6)})
    assert len(list(tmp_path.iterdir())) == 3
    assert all(file.stat().st_size < 10_000_000 for file in tmp_path.iterdir())


def test_any_changed_byte_changes_the_digest(folder: Path) -> None:
    before = checkpoint.digest(folder)
    for file in folder.iterdir():
        size = file.stat().st_size
        for place in {0, 7, 8, size // 3, size // 2, size - 1}:
            whole = file.read_bytes()
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert checkpoint.digest(folder) != before, (file, place)
            file.write_bytes(whole)
    assert checkpoint.digest(folder) == before


def test_the_card_survives_a_replacement(folder: Path) -> None:
    (folder / "README.md").write_text("how it was trained")
    save(folder, seed=1)
    assert (folder / "README.md").read_text() == "how it was trained"


def test_a_run_folder_stands_for_its_newest_state_where_none_was_measured(tmp_path: Path) -> None:
    for step in (5, 40, 300):
        save(tmp_path / f"step-{step:08d}", seed=step)
    assert checkpoint.load(str(tmp_path)).training == {"seed": 300}


# ---------------------------------------------------------------------------------------------------------------------
# Damage


@pytest.mark.parametrize(
    "name", ["nothing-here", "", ".", "/", "~", "a/../b", "\0", pytest.param("x" * 5000, id="long")]
)
def test_a_name_that_is_no_checkpoint_says_what_there_is(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match="no checkpoint"):
        checkpoint.load(name)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.99])
def test_weights_cut_short_are_refused(folder: Path, part: float) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: int(part * file.stat().st_size)])
    refused(folder, "cannot be read as safetensors")


def test_missing_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refused(folder, "lacks model.safetensors")


def _shards(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.setattr(checkpoint.save_tensors, "__defaults__", (20_000,))
    save(folder)
    files = sorted(folder.glob("model-*.safetensors"))
    assert len(files) > 3
    return files


@pytest.mark.parametrize("lost", [0, 1, -1])
def test_a_missing_shard_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, lost: int) -> None:
    files = _shards(folder, monkeypatch)
    checkpoint.load(str(folder))
    files[lost].unlink()
    refused(folder, "or some of its parts")


@pytest.mark.parametrize("name", ["model-x-of-y.safetensors", "model-00001-of-00099.safetensors"])
def test_shards_with_foreign_names_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    files = _shards(folder, monkeypatch)
    shutil.copy(files[0], folder / name)
    refused(folder, "or some of its parts")


def _extra(x: dict[str, torch.Tensor]) -> None:
    x["surplus"] = torch.zeros(3)


def _fewer(x: dict[str, torch.Tensor]) -> None:
    del x["out.bias"]


def _turned(x: dict[str, torch.Tensor]) -> None:
    x["out.bias"] = x["out.bias"][None]


def _swapped(x: dict[str, torch.Tensor]) -> None:
    x["out.bias"] = x["stem.weight"].clone()


@pytest.mark.parametrize("change", [_extra, _fewer, _turned, _swapped])
def test_weights_that_do_not_fit_the_config_are_refused(folder: Path, change: Callable) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    refused(folder, "the weights do not fit config.json")


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float64, torch.uint8, torch.complex64])
def test_weights_of_a_foreign_type_are_refused(folder: Path, dtype: torch.dtype) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["out.bias"] = tensors["out.bias"].to(dtype)
    save_file(tensors, folder / "model.safetensors")
    refused(folder, "not one of BF16, F16, F32")


def raw(header: object, body: bytes = b"", size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + body


def entry(shape: list[int], offsets: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"out.bias": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


RAW = {
    "empty": b"",
    "seven bytes": b"1234567",
    "text": b"these are no weights, this is a letter\n" * 100,
    "header longer than the file": raw({}, size=5_000_000),
    "header of 2^64 bytes": raw({}, size=2**64 - 1),
    "header that is no JSON": raw(b"{" * 1000),
    "header nested deeply": raw(b'{"a":' * 5000 + b"1" + b"}" * 5000),
    "header that is a list": raw([1, 2]),
    "shape that overflows": raw(entry([2**62, 2**62], [0, 8]), bytes(8)),
    "negative shape": raw(entry([-1, 4], [0, 8]), bytes(8)),
    "offsets beyond the file": raw(entry([2], [0, 2**40]), bytes(8)),
    "offsets that run backwards": raw(entry([2], [8, 0]), bytes(8)),
    "shape that its bytes do not fill": raw(entry([1000, 1000], [0, 8]), bytes(8)),
    "unknown type": raw(entry([2], [0, 8], "F1234"), bytes(8)),
    "bytes that no tensor owns": raw(entry([2], [0, 8]), bytes(1000)),
    "zip": b"PK\x03\x04" + bytes(1000),
}


@pytest.mark.parametrize("name", RAW)
def test_files_that_are_no_safetensors_are_refused(folder: Path, name: str) -> None:
    (folder / "model.safetensors").write_bytes(RAW[name])
    refused(folder, "model.safetensors")


def test_five_hundred_flipped_bytes_never_end_in_anything_else(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    places = torch.randint(0, header, (500,), generator=torch.Generator().manual_seed(0)).tolist()
    outcomes = set()
    shapes = {name: x.shape for name, x in unet.build(MODEL).state_dict().items()}
    for i, place in enumerate(places):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (i % 8)
        (folder / "model.safetensors").write_bytes(damaged)
        try:
            checkpoint.load_tensors(folder, "model", shapes)
            outcomes.add("loaded")
        except CheckpointError:
            outcomes.add("refused")
    assert "refused" in outcomes


class Payload:
    """Unpickling one of these writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable, tuple[str, str]]:
        return _write, (str(self.marker), "the payload ran")


def _write(file: str, text: str) -> None:
    Path(file).write_text(text)


@pytest.mark.parametrize("protocol", [0, 4, "torch"])
def test_a_pickle_by_another_name_never_runs(folder: Path, tmp_path: Path, protocol: int | str) -> None:
    marker, file = tmp_path / "marker", folder / "model.safetensors"
    payload = {"weight": Payload(marker)}
    if protocol == "torch":
        torch.save(payload, file)
    else:
        file.write_bytes(pickle.dumps(payload, int(protocol)))
    for other in ("model.pt", "model.bin", "pytorch_model.bin"):
        shutil.copy(file, folder / other)
    refused(folder, "model.safetensors")
    file.unlink()
    refused(folder, "lacks model.safetensors")
    assert not marker.exists()


# ---------------------------------------------------------------------------------------------------------------------
# Configs

NOT_CONFIGS = {
    "no JSON": b"{network: unet}",
    "empty": b"",
    "not UTF-8": b'{"network": "\xff\xfe"}',
    "a list": b"[1, 2, 3]",
    "a number": b"7",
    "null": b"null",
    "nested deeply": b"[" * 100_000 + b"]" * 100_000,
    "a huge number": b'{"network": ' + b"9" * 100_000 + b"}",
    "larger than any config": b'{"network": "unet", "x": "' + b"x" * 2_000_000 + b'"}',
}


@pytest.mark.parametrize("name", NOT_CONFIGS)
def test_a_file_that_is_no_config_is_refused(folder: Path, name: str) -> None:
    (folder / "config.json").write_bytes(NOT_CONFIGS[name])
    refused(folder, "config.json")


CHANGES: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "no network": ("lacks network", lambda c: c.pop("network")),
    "unknown network": ("network 'gan' is unknown.*unet", lambda c: c.update(network="gan")),
    "network that is a list": ("is unknown", lambda c: c.update(network=["unet"])),
    "no model": ("lacks model", lambda c: c.pop("model")),
    "model that is a list": ("config.json", lambda c: c.update(model=[1])),
    "model that is null": ("config.json", lambda c: c.update(model=None)),
    "unknown field": ("no setting 'wdths'; did you mean 'widths'", lambda c: c["model"].update(wdths=[16])),
    "unknown field of the spread": ("no setting 'foo'", lambda c: c["spread"].update(foo=1)),
    "width that is a word": ("widths", lambda c: c["model"].update(widths=["many", 16])),
    "norm that is unknown": ("norm", lambda c: c["model"].update(norm="batch")),
    "no levels of width": ("number of widths", lambda c: c["model"].update(widths=[])),
    "blocks without end": ("blocks_up", lambda c: c["model"].update(blocks_up=10**9)),
    "levels without end": ("number of widths", lambda c: c["model"].update(widths=[1] * 100_000)),
    "10^12 parameters": ("asks for .*parameters", lambda c: c["model"].update(widths=[60_000] * 8, blocks_up=16)),
    "a width beyond int64": ("width", lambda c: c["model"].update(widths=[16, 10**30])),
    "an embedding of 10^12": ("embedding", lambda c: c["model"].update(embedding=10**12)),
    "a patch of 10^9": ("patch", lambda c: c["model"].update(patch=10**9)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_config_that_describes_no_network_is_refused(folder: Path, name: str) -> None:
    match, change = CHANGES[name]
    change_config(folder, change)
    refused(folder, match)


LIMITED = """
import resource, sys
from videodiff import checkpoint
from videodiff.errors import CheckpointError
from videodiff.models import unet
unet.build(unet.Config(widths=(16, 16)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for folder in sys.argv[1:]:
    try:
        checkpoint.load(folder)
    except CheckpointError as error:
        print(error)
    else:
        raise SystemExit(f"{folder} was loaded")
rise = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024)
print(rise)
"""


def test_huge_claims_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    claims: dict[str, Callable[[Path], Any]] = {
        "parameters": lambda f: change_config(f, lambda c: c["model"].update(widths=[60_000] * 8, blocks_up=16)),
        "billion": lambda f: change_config(f, lambda c: c["model"].update(widths=[16, 9000])),
        "header": lambda f: (f / "model.safetensors").write_bytes(raw(b'{"a":"' + b"x" * 99_000_000 + b'"}')),
        "tensor": lambda f: (f / "model.safetensors").write_bytes(raw(entry([10**11], [0, 4 * 10**11]))),
        "config": lambda f: (f / "config.json").write_bytes(b'["' + b"x" * 150_000_000 + b'"]'),
    }
    for name, claim in claims.items():
        save(tmp_path / name)
        claim(tmp_path / name)
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, *(str(tmp_path / name) for name in claims)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    *messages, rise = result.stdout.splitlines()
    assert len(messages) == len(claims), messages
    assert int(rise) < 100_000_000


# ---------------------------------------------------------------------------------------------------------------------
# Looking without torch


def test_a_folder_says_without_torch_what_loading_it_finds(folder: Path) -> None:
    (folder / "README.md").write_text("---\ntags: [x]\nlicense: cc-by-4.0\n---\n\n# net\n")
    bundle, said = checkpoint.load(str(folder)), shelf.describe(folder)
    assert said.parameters == sum(p.numel() for p in bundle.net.parameters())
    assert (said.name, said.network, said.channels, said.digest) == ("net", "unet", 1, bundle.digest)
    assert (said.frames, said.side) == (bundle.window.frames, bundle.window.side)
    assert said.bytes == sum(file.stat().st_size for file in folder.iterdir())
    assert said.licence == "cc-by-4.0"
    code = "import sys, videodiff.shelf; assert not {'torch', 'safetensors', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


LIES: dict[str, bytes] = {
    "empty": b"",
    "a pickle": pickle.dumps({"weights": [1.0]}),
    "a header longer than the file": struct.pack("<Q", 9_000_000) + b"{}",
    "a header of 100 MB": struct.pack("<Q", 10**8) + b"{}",
    "shapes that overflow": raw(entry([2**40, 2**40], [0, 4]), b"1234"),
    "a body that is cut": raw(entry([4], [0, 16]), b"12"),
    "no numbers": raw(b'{"a": {"shape": "x"}}'),
    "a list": raw(b"[1]"),
}


@pytest.mark.parametrize("name", LIES)
def test_weights_that_lie_are_refused_by_their_header_alone(folder: Path, name: str) -> None:
    (folder / "model.safetensors").write_bytes(LIES[name])
    with pytest.raises(CheckpointError, match="safetensors"):
        shelf.describe(folder)


# ---------------------------------------------------------------------------------------------------------------------
# Replacing


def calls_of(work: Callable[[], Any], dies_at: int | None = None) -> int | None:
    """Do `work` in a forked process that dies, unannounced, at its n-th file-system call; None if it did not get there.

    Counted are the calls that Python makes, and before, inside and after the writing of each tensor file.
    """
    pid = os.fork()
    if pid == 0:
        left = dies_at

        def call() -> None:
            nonlocal left
            assert left is not None
            left -= 1
            if left < 0:
                os._exit(9)

        def hook(event: str, _: tuple) -> None:
            if event in {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.scandir", "shutil.rmtree"}:
                call()

        def save_in_steps(tensors: dict, file: Path) -> None:
            call()
            save_file(tensors, file)
            whole = file.read_bytes()
            os.truncate(file, len(whole) // 2)
            call()
            file.write_bytes(whole)
            call()

        try:
            checkpoint.save_file = save_in_steps  # type: ignore[assignment]
            sys.addaudithook(hook)
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


@needs_fork
def test_a_replacement_killed_anywhere_leaves_the_old_or_the_new(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(checkpoint.save_tensors, "__defaults__", (20_000,))
    save(tmp_path / "old", seed=1)
    save(tmp_path / "new", seed=2)
    old, new = (checkpoint.load(str(tmp_path / name)).digest for name in ("old", "new"))
    found = []
    for n in range(1000):
        folder = tmp_path / "net"
        if n % 2 == 0:  # every second time into what the kill before left
            for left in tmp_path.glob("*net*"):
                shutil.rmtree(left)
            shutil.copytree(tmp_path / "old", folder)
        code = calls_of(lambda folder=folder: save(folder, seed=2), n)  # type: ignore[misc]
        bundle = checkpoint.load(str(folder))
        assert bundle.digest in (old, new), n
        found.append(bundle.digest)
        if code == 0:
            break
    assert code == 0
    assert found[-1] == new
    assert len(found) >= 50, "kills were swept over fewer than 50 points"
    assert {old, new} == set(found)
    assert [p.name for p in tmp_path.iterdir() if "net" in p.name] == ["net"], "nothing is left lying about"


@needs_fork
def test_a_first_save_killed_anywhere_leaves_nothing_or_all(tmp_path: Path) -> None:
    for n in range(1000):
        code = calls_of(lambda n=n: save(tmp_path / f"net{n}"), n)  # type: ignore[misc]
        if (tmp_path / f"net{n}").exists():
            assert checkpoint.load(str(tmp_path / f"net{n}")).training == {"seed": 0}
        else:
            with pytest.raises(CheckpointError, match="no checkpoint"):
                checkpoint.find(str(tmp_path / f"net{n}"))
        if code == 0:
            break
    assert code == 0


@pytest.mark.parametrize("files", [0, 1, 2])
def test_a_full_disk_leaves_the_old_checkpoint_and_says_so(folder: Path, monkeypatch: Any, files: int) -> None:
    before = checkpoint.digest(folder)
    room = iter(range(files))

    def full(tensors: dict, file: Path) -> None:
        if next(room, None) is None:
            raise OSError(28, "No space left on device")
        save_file(tensors, file)

    monkeypatch.setattr(checkpoint.save_tensors, "__defaults__", (20_000,))
    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OutOfResources, match=r"No space left on device.*free some disk space"):
        save(folder, seed=1)
    assert checkpoint.digest(folder) == before
    assert [p.name for p in folder.parent.iterdir()] == ["net"]


def test_a_full_disk_at_the_config_says_so_too(folder: Path, monkeypatch: Any) -> None:
    before = checkpoint.digest(folder)

    def full(self: Path, *_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutOfResources, match="No space left on device"):
        save(folder, seed=1)
    assert checkpoint.digest(folder) == before
