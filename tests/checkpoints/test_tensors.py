"""What every loader refuses: tensors of another name, shape or dtype, NaN and infinity."""

import pytest
import safetensors.torch
import torch

from hyperloader.checkpoints.tensors import FLOATS, check_numbers, check_tensors, read_tensors

WANTED = {"a": torch.zeros(2, 3, device="meta"), "ids": torch.zeros(2, dtype=torch.long, device="meta")}


def good():
    return {"a": torch.ones(2, 3), "ids": torch.tensor([0, 1])}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_float_is_taken(dtype):
    check_tensors("file", good() | {"a": torch.ones(2, 3, dtype=dtype)}, WANTED)
    check_tensors("file", {"a": torch.ones(0, dtype=dtype)}, {"a": torch.ones(0)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": torch.ones(1)}, "^file: tensors missing: none; extra: b$"),
        ({"a": torch.ones(3, 2)}, r"^file: a must have shape \(2, 3\), got \(3, 2\)$"),
        (
            {"a": torch.ones(2, 3).long()},
            "^file: a must be one of float64, .*, bfloat16, got torch.int64",
        ),
        ({"a": torch.ones(2, 3).bool()}, "got torch.bool"),
        ({"a": torch.ones(2, 3).cfloat()}, "got torch.complex64"),
        ({"a": torch.ones(2, 3).to(torch.float8_e4m3fn)}, "got torch.float8_e4m3fn"),
        ({"a": torch.full((2, 3), torch.nan)}, "^file: a must be finite, got NaN or infinity$"),
        ({"a": torch.full((2, 3), -torch.inf).half()}, "a must be finite"),
        ({"a": torch.ones(2, 3).to_sparse()}, "a must be a dense tensor with values, got torch.sparse_coo on cpu"),
        ({"a": torch.ones(4).as_strided((2, 3), (1, 1))}, "a must hold 6 numbers, got fewer in its memory"),
        ({"a": torch.ones(2, 3, device="meta")}, "a must be a dense tensor with values, got torch.strided on meta"),
        ({"ids": torch.ones(2)}, "^file: ids must be torch.int64, got torch.float32$"),
    ],
)
def test_anything_else_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        check_tensors("file", good() | change, WANTED)


def test_many_names_are_not_all_listed():
    with pytest.raises(ValueError, match="extra: 10,000 names such as 00000, 00001, 00002$"):
        check_tensors("file", {f"{number:05}": torch.ones(1) for number in range(10_000)}, {})


@pytest.mark.parametrize(("name", "value"), [("epoch", 3), ("rows", [1.0]), (7, torch.ones(1))])
def test_what_is_no_tensor_is_refused(name, value):
    with pytest.raises(ValueError, match="file: must hold tensors by name, got a"):
        check_numbers("file", name, value)


def test_a_tensor_that_claims_more_than_it_has_costs_no_memory():
    check_numbers("file", "a", torch.ones(1).expand(10**6, 10**6))
    with pytest.raises(ValueError, match="must be finite"):
        check_numbers("file", "a", torch.full((3, 1), torch.nan).expand(3, 10**12))
    with pytest.raises(ValueError, match="a must hold 1,000,000,000,000 numbers, got fewer"):
        check_numbers("file", "a", torch.ones(2 * 10**6).as_strided((10**6, 10**6), (1, 1)))


def test_no_safetensors(tmp_path):
    path = tmp_path / "model.safetensors"
    whole = safetensors.torch.save({"a": torch.ones(9)})
    unknown = whole.replace(b'"F32"', b'"F99"')
    for content in (b"", b"nothing", whole[:-3], unknown, b"\xff" * 8 + b"{", whole + b"more"):
        path.write_bytes(content)
        for given in (None, content):
            with pytest.raises(ValueError, match=r"model\.safetensors: truncated or no safetensors file"):
                read_tensors(path, given)
    path.write_bytes(whole)
    assert torch.equal(read_tensors(path)["a"], torch.ones(9))
