"""All back ends of attention compute the same thing, and xformers is used only where a real call of it is right."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from videodiff.errors import MissingExtra, UserError
from videodiff.models.attention import Backend, attention, check_xformers

Shape = tuple[int, int, int, int, int]
SHAPES: list[Shape] = [(1, 1, 1, 1, 8), (3, 2, 5, 7, 16), (2, 4, 16, 16, 32), (2, 2, 3, 100, 8), (1, 2, 65, 65, 32)]
"""n, heads, queries, keys, width."""


def example(
    n: int, heads: int, tq: int, tk: int, width: int, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v, and a bias that forbids about a third of the keys, never the first."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    bias = draw(n, heads, tq, tk).masked_fill(draw(n, heads, tq, tk) > 0.4, float("-inf"))
    bias[..., 0] = 0.5
    parts = draw(n, heads, tq, width), draw(n, heads, tk, width), draw(n, heads, tk, width), bias
    q, k, v, bias = (x.to(device, dtype) for x in parts)
    return q, k, v, bias


def by_hand(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """The definition in float64."""
    q, k, v = q.double(), k.double(), v.double()
    logits = torch.einsum("nhqd,nhkd->nhqk", q, k) / q.shape[-1] ** 0.5
    weights = (logits if bias is None else logits + bias.double()).exp()
    return torch.einsum("nhqk,nhkd->nhqd", weights / weights.sum(-1, keepdim=True), v)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("backend", ["auto", "sdpa", "math"])
def test_every_back_end_is_the_definition(shape: Shape, with_bias: bool, backend: Backend) -> None:
    q, k, v, some = example(*shape)
    given = some if with_bias else None
    expected = by_hand(q, k, v, given)
    torch.testing.assert_close(attention(q, k, v, given, backend).double(), expected, rtol=1e-5, atol=2e-6)
    bias = None if given is None else given.bfloat16()
    rough = attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), bias, backend)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.double(), expected, rtol=0, atol=6e-2)


@pytest.mark.parametrize("backend", ["sdpa", "math"])
def test_float64_keeps_its_digits(backend: Backend) -> None:
    q, k, v, bias = example(2, 2, 4, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(attention(q, k, v, bias, backend), by_hand(q, k, v, bias), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("backend", ["auto", "sdpa", "math"])
def test_a_forbidden_key_has_no_influence_at_all(backend: Backend) -> None:
    q, k, v, bias = example(2, 2, 4, 6, 8)
    bias[..., 3] = float("-inf")
    before = attention(q, k, v, bias, backend)
    k[..., 3, :], v[..., 3, :] = 1e3, -1e3
    assert torch.equal(attention(q, k, v, bias, backend), before)


@pytest.mark.parametrize("backend", ["sdpa", "math"])
def test_a_bias_shared_by_clips_and_heads_is_broadcast(backend: Backend) -> None:
    q, k, v, bias = example(3, 2, 5, 7, 16)
    shared = bias[:1, :1]
    whole = shared.expand(3, 2, -1, -1).contiguous()
    torch.testing.assert_close(attention(q, k, v, shared, backend), attention(q, k, v, whole, backend))


def test_back_ends_have_the_same_gradient() -> None:
    gradients = []
    backends: tuple[Backend, ...] = ("sdpa", "math")
    for backend in backends:
        q, k, v, bias = inputs = [x.requires_grad_() for x in example(2, 2, 4, 6, 8)]
        attention(q, k, v, bias, backend).square().sum().backward()
        gradients.append([x.grad for x in inputs])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# xformers


@pytest.fixture
def xformers_doing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable | None], None]]:
    """Put a package named xformers in place whose attention is the given function; None: it cannot be imported."""

    def put(function: Callable | None) -> None:
        check_xformers.cache_clear()
        package, ops = ModuleType("xformers"), ModuleType("xformers.ops")
        if function is not None:
            package.ops, ops.memory_efficient_attention = ops, function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "xformers", None if function is None else package)
        monkeypatch.setitem(sys.modules, "xformers.ops", None if function is None else ops)

    yield put
    check_xformers.cache_clear()


def faithful(q: Tensor, k: Tensor, v: Tensor, attn_bias: Tensor | None = None) -> Tensor:
    """What xformers promises: tensors [n t heads d] in and out, a bias of the full shape."""
    if attn_bias is not None:
        assert attn_bias.shape == (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
        assert attn_bias.stride(-2) % 8 == 0
    return by_hand(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_bias).transpose(1, 2).to(q.dtype)


def broken_build(*_: Tensor, **__: Tensor) -> Tensor:
    raise NotImplementedError("No operator found for `memory_efficient_attention_forward`")


def test_without_xformers_the_extra_is_named(xformers_doing: Callable) -> None:
    xformers_doing(None)
    with pytest.raises(MissingExtra, match=r"videodiff\[xformers\]") as caught:
        attention(*example(1, 1, 2, 2, 8), backend="xformers")
    assert caught.value.exit_code == 7
    assert "\n" not in str(caught.value)


def test_the_self_test_refuses_an_xformers_that_has_no_operator_here(xformers_doing: Callable) -> None:
    xformers_doing(broken_build)
    with pytest.raises(UserError, match=r"no working attention for torch\.float32 on cpu; choose attention 'auto'"):
        attention(*example(1, 1, 2, 2, 8), backend="xformers")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_self_test_refuses_wrong_results(xformers_doing: Callable, dtype: torch.dtype) -> None:
    xformers_doing(lambda q, k, v, attn_bias: faithful(q, k, v, None))  # forgets the bias
    with pytest.raises(UserError, match="is off by"):
        check_xformers("cpu", dtype)


def test_the_self_test_refuses_results_that_are_no_numbers(xformers_doing: Callable) -> None:
    xformers_doing(lambda q, k, v, attn_bias: torch.full_like(q, float("nan")))
    with pytest.raises(UserError, match="is off by"):
        check_xformers("cpu", torch.float32)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_right_xformers_is_used_and_tested_once(xformers_doing: Callable, shape: Shape) -> None:
    calls = []
    xformers_doing(lambda q, k, v, attn_bias: calls.append(q.shape) or faithful(q, k, v, attn_bias))  # type: ignore[func-returns-value]
    for _ in range(2):
        result = attention(*example(*shape), backend="xformers")
        torch.testing.assert_close(result, attention(*example(*shape), backend="sdpa"), rtol=1e-5, atol=2e-6)
    assert len(calls) == 3, "one call of the self-test, two of ours"


def test_the_installed_xformers_is_refused_on_the_cpu() -> None:
    # Its kernels are for CUDA; what is installed here, or not, must end in one of our two errors.
    check_xformers.cache_clear()
    with pytest.raises(UserError, match="choose attention 'auto'"):
        check_xformers("cpu", torch.float32)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_back_ends_side_by_side_on_the_gpu(shape: Shape, with_bias: bool, dtype: torch.dtype) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    q, k, v, bias = example(*shape, device="cuda", dtype=dtype)
    given = bias if with_bias else None
    expected = by_hand(q, k, v, given)
    backends: list[Backend] = ["auto", "sdpa", "math"]
    if importlib.util.find_spec("xformers") is not None:
        backends.append("xformers")
    for backend in backends:
        got = attention(q, k, v, given, backend)
        # The inputs are exact in bf16; what differs is the rounding of weights and results, which lie in -4..4.
        tolerance = 1e-5 if dtype == torch.float32 else 1e-2
        torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance, msg=backend)
    if "xformers" not in backends:
        pytest.skip("xformers is not installed; the other back ends agree")
