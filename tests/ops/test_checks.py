"""The checks of arguments in C++ and those in Python: the same error, word for word, for the same wrong arguments."""

import pytest
import torch
from helpers.cases import WEIGHTS, adapter_inputs, lora_inputs

from hyperloader.ops import _schema, native

pytestmark = pytest.mark.skipif(not native.available, reason=f"no native extension: {native.reason}")


def adapter(groups, norm):
    inputs = adapter_inputs(2, 3, 6, 4, groups, norm, torch.float32)
    return {name: inputs.get(name) for name in ("x", *WEIGHTS, "group")} | {
        "norm": norm, "activation": "relu", "eps": 1e-5
    }  # fmt: skip


def lora_linears(groups, layers):
    inputs = [lora_inputs(2, 3, 6, *sizes, groups, torch.float32) for sizes in ((5, 2), (4, 3))[:layers]]
    names = {"weights": "weight", "biases": "bias", "lora_A": "lora_A", "lora_B": "lora_B"}
    lists = {plural: [layer[name] for layer in inputs] for plural, name in names.items()}
    return {"x": inputs[0]["x"], **lists, "group": inputs[0].get("group"), "scaling": 0.5}


def generate():
    weights = [torch.randn(3, 5), torch.randn(4, 5)]
    return {
        "condition": torch.randn(2, 5), "weights": weights, "biases": [torch.randn(4)], "has_bias": [False, True],
        "dtype": None,
    }  # fmt: skip


def condition():
    shapes = {
        "task_embedding": (2, 3), "layer_embedding": (4, 3), "position_embedding": (5, 3), "first_weight": (6, 9),
        "first_bias": (6,), "second_weight": (7, 6), "second_bias": (7,), "norm_weight": (7,), "norm_bias": (7,),
    }  # fmt: skip
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    indices = {"layers": torch.tensor([1, 3]), "positions": torch.tensor([4, 0, 2])}
    return tensors | indices | {"scales": [1.0, 2.0, 3.0], "eps": 1e-6}


CASES = {
    **{
        f"adapter-{norm}-{groups}": ("adapter", lambda norm=norm, groups=groups: adapter(groups, norm))
        for norm in ("post", "pre", "both", "none")
        for groups in (None, 3)
    },
    **{
        f"lora_linears-{layers}-{groups}": (
            "lora_linears",
            lambda layers=layers, groups=groups: lora_linears(groups, layers),
        )
        for layers in (1, 2)
        for groups in (None, 3)
    },
    "generate": ("generate", generate),
    "condition": ("condition", condition),
}


def changed(value):
    """Values that are wrong in place of ``value``, or may be."""
    if value is None:
        yield from (torch.randn(3), torch.tensor([0, 1]))
    elif isinstance(value, torch.Tensor):
        yield from (value[None], value[..., :-1], value[:-1], value[:0], torch.cat([value, value]), value.flatten())
        yield from (value.to(dtype) for dtype in (torch.int32, torch.float16, torch.float64, torch.complex64))
        yield from (value.to("meta"), value + 100, -1 - value, None)
    elif isinstance(value, str):
        yield from ("post", "pre", "both", "none", "other", "")
    elif isinstance(value, float):
        yield from (-1.5, float("nan"))
    elif isinstance(value[0], torch.Tensor):
        yield from ([], value[:-1], [*value, value[0]])
        yield from ([*value[:-1], one] for one in changed(value[-1]) if one is not None)
    elif isinstance(value[0], bool):
        yield from ([], [True] * len(value), [False] * len(value))
    else:
        yield from ([], value[:-1])


def outcome(namespace, name, arguments):
    """The error that the operator raises, None where it computes."""
    try:
        getattr(getattr(torch.ops, namespace), name)(**arguments)
    except (ValueError, TypeError, IndexError) as error:
        return type(error), str(error)
    return None


@pytest.mark.parametrize("case", CASES)
def test_one_wrong_argument(case):
    name, make = CASES[case]
    arguments = make()
    schema = torch._C.parse_schema(_schema.SCHEMAS[name]).arguments
    assert set(arguments) == {argument.name for argument in schema}
    optional = {argument.name for argument in schema if isinstance(argument.type, torch.OptionalType)}
    assert outcome("hyperloader", name, arguments) is None
    refused = set()
    for argument in arguments:
        for value in changed(arguments[argument]):
            if value is None and argument not in optional:  # the schema does not allow it
                continue
            wrong = arguments | {argument: value}
            try:
                expected = outcome("hyperloader_reference", name, wrong)
            except RuntimeError:  # PyTorch itself refuses what the schema does not allow
                continue
            assert outcome("hyperloader", name, wrong) == expected, (argument, value)
            if expected is not None:
                refused.add(argument)
    assert refused >= set(arguments) - {"scaling", "dtype"}
