"""Encoders with task heads as ONNX files, with one task or with all of them inside, and their use by onnxruntime."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hyperloader.checkpoints.atomic import writing_files
from hyperloader.interop.program import LOGITS, Logits, describe, exported
from hyperloader.model import HyperLoaderModel, TaskModel

OPSETS = (18, 23)  # the first and the last that are written
METADATA = "hyperloader"  # the key of what an ONNX file tells about its tasks
_MOST_BYTES = 2**31  # of a protocol buffer


def check_opset(opset: int) -> None:
    """Raise ``ValueError`` for a version of ONNX's operators that is not written."""
    if not OPSETS[0] <= opset <= OPSETS[1]:
        raise ValueError(f"opset must be from {OPSETS[0]} to {OPSETS[1]}, got {opset}")


def save_onnx(model: HyperLoaderModel | TaskModel, path: str | Path, opset: int = OPSETS[0]) -> None:
    """Write ``model``'s forward as one ONNX file of standard operators.

    Inputs and output are those of ``hyperloader.interop.program.exported``, for any number of sentences and tokens;
    the metadata's ``hyperloader`` is ``describe`` of the model as JSON.

    Args:
        model: an encoder with task heads, float32, on the CPU: of all tasks, or merged for one.
        path: of the file.
        opset: version of ONNX's operators.

    Raises:
        ValueError: a model that cannot be exported, or an opset too old or too new.
    """
    check_opset(opset)
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    if size >= _MOST_BYTES:
        raise ValueError(f"model must be smaller than 2 GiB for one ONNX file, got {size / 2**30:.1f} GiB")
    program = exported(model)
    with _quiet():
        written: Any = torch.onnx.export(
        program, dynamo=True, verbose=False, opset_version=opset, input_names=Logits(model).inputs,
        output_names=[LOGITS],
    )  # fmt: skip
    content = written.model_proto
    entry = content.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(describe(model.hyperloader_config), ensure_ascii=False)
    with writing_files(Path(path)) as (temporary,):
        temporary.write_bytes(content.SerializeToString())


def quantize_onnx(path: str | Path, target: str | Path, *, per_column: bool = True) -> None:
    """Write the ONNX file ``path`` with int8 weights to ``target``, by onnxruntime's dynamic quantisation.

    Embeddings and every product with weights of the file become int8, those that generate weights too; products with
    generated weights stay float32.

    Args:
        per_column: a factor for every column of a weight, of which runs lose less than with one for all of it.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(str(path))
    del model.graph.value_info[:]  # the exporter's symbolic shapes, which the quantiser infers anew
    with writing_files(Path(target)) as (temporary,), _quiet():
        quantize_dynamic(model, str(temporary), weight_type=QuantType.QInt8, per_channel=per_column)


class OnnxModel(nn.Module):
    """An ONNX file of ``save_onnx`` in onnxruntime, called as the model it came from; without gradients.

    ``description`` is what ``describe`` told, ``inputs`` are the names of what it reads.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = [one.name for one in self._session.get_inputs()]
        self.description: Mapping[str, Any] = json.loads(self._session.get_modelmeta().custom_metadata_map[METADATA])
        self.nothing = nn.Parameter(torch.empty(0), requires_grad=False)  # tells where tensors belong

    def forward(self, **tensors: Tensor) -> Any:
        """A ``TokenClassifierOutput`` with ``logits``; arguments as ``HyperLoaderModel.forward`` has them."""
        from transformers.modeling_outputs import TokenClassifierOutput

        given = dict(tensors)
        first = given["input_ids"]
        given.setdefault("attention_mask", torch.ones_like(first))
        given.setdefault("token_type_ids", torch.zeros_like(first))
        arrays = {name: np.ascontiguousarray(given[name].numpy()) for name in self.inputs}
        (logits,) = self._session.run([LOGITS], arrays)
        return TokenClassifierOutput(logits=torch.from_numpy(logits))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice that exporter and quantiser log."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
