"""What auto takes on a GPU: by operator and size from one table, decided when it is set."""

import json
from types import SimpleNamespace

import pytest
import torch

from hyperloader.ops import BACKENDS, _triton, backend, gpu_choice
from hyperloader.ops.gpu_choice import Choice, Piece

SIZES = (
    Piece(16, 100, "triton"), Piece(16, None, "native"), Piece(None, 1000, "native"), Piece(None, None, "triton")
)  # fmt: skip


def on_gpu(tokens, features=16, is_cuda=True):
    return SimpleNamespace(is_cuda=is_cuda, shape=torch.Size((1, tokens, features)))


@pytest.fixture
def table(monkeypatch):
    """A function that puts pieces into the table, for every operator."""
    monkeypatch.setattr(_triton, "fits", lambda name, arguments: "refused" not in arguments)

    def put(*pieces):
        choice = Choice("made up", dict.fromkeys(backend.OPERATORS, pieces))
        monkeypatch.setattr(gpu_choice, "read", lambda: choice)

    return put


def choosing():
    return gpu_choice.choosing("adapter", lambda *_: "native", lambda: lambda *_: "triton")


def test_the_table_of_the_package():
    content = json.loads(gpu_choice.TABLE.read_text(encoding="utf-8"))
    assert set(content["operators"]) == set(backend.OPERATORS)
    for pieces in gpu_choice.read().operators.values():
        assert pieces[-1][:2] == (None, None) and {piece.backend for piece in pieces} <= set(BACKENDS)
        limits = [[one or 10**9 for one in piece[:2]] for piece in pieces]
        assert limits == sorted(limits)
    assert content["source"] == "computed, not measured" or content["source"].startswith("measured on ")


def test_one_backend_for_all_sizes_costs_nothing(table):
    def compiled(*_):
        raise NotImplementedError

    table(Piece(None, None, "native"))
    assert gpu_choice.choosing("adapter", compiled, None) is compiled


def test_by_size(table):
    table(*SIZES)
    call = choosing()
    assert [call(on_gpu(n)) for n in (1, 100, 101, 9999)] == ["triton", "triton", "native", "native"]
    assert [call(on_gpu(n, 17)) for n in (1, 1000, 1001)] == ["native", "native", "triton"]


def test_the_extension_takes_what_is_not_for_triton(table):
    """The CPU's tensors, what its kernels refuse, and transformations of torch.func."""
    table(Piece(None, None, "triton"))
    call = choosing()
    assert call(on_gpu(1)) == "triton"
    assert call(on_gpu(1, is_cuda=False)) == "native"
    assert call(on_gpu(1), "refused") == "native"
    inside = []
    torch.func.vmap(lambda x: (inside.append(call(on_gpu(1))), x)[1])(torch.ones(2))
    assert inside == ["native"]


@pytest.mark.parametrize("name", ["lora_linear", "lora_linears"])
@pytest.mark.parametrize(("rank", "fits"), [(8, True), (200, False)])
def test_triton_refuses_wide_updates(name, rank, fits):
    x, weight, lora_A, lora_B = torch.ones(2, 4), torch.ones(4, 4), torch.ones(rank, 4), torch.ones(4, rank)
    one = (x, weight, None, lora_A, lora_B, None, 1.0)
    assert (
        _triton.fits(name, one if name == "lora_linear" else (x, [weight], [], [lora_A], [lora_B], None, 1.0)) == fits
    )


def test_auto_asks_the_table_only_where_both_have_kernels(table, monkeypatch):
    table(Piece(None, None, "triton"))
    compiled = backend._callable("hyperloader", "adapter")
    try:
        for both in (False, True):
            monkeypatch.setattr(backend, "_BOTH_ON_GPU", both)
            with backend.use_backend("auto"):
                assert (backend.operator("adapter") is compiled) != both
    finally:
        monkeypatch.undo()
        backend.use_backend(backend._chosen)


@pytest.mark.parametrize(
    ("kernels", "pieces", "expected"),
    [
        ((), SIZES, "reference: nothing has kernels for GPUs"),
        (("triton",), SIZES, "triton, which alone has kernels for GPUs"),
        (("native", "triton"), (Piece(None, None, "native"),), "native: made up"),
        (
            ("native", "triton"),
            SIZES,
            "triton up to 100 rows of 16 features, native up to 16 features, native up to 1000 rows, triton: made up",
        ),
    ],
)
def test_described(kernels, pieces, expected, table, monkeypatch):
    table(*pieces)
    monkeypatch.setattr(gpu_choice, "kernels", lambda: kernels)
    assert gpu_choice.described() == expected
