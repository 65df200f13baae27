"""The published hypernetwork of one stack: asked layer by layer, generating all layers at once."""

import math
import operator
import threading
from typing import Any

from torch import Tensor, nn

from hyperloader.interop.published.generation import Generation, LayerWeights, Plan, Source, state_of
from hyperloader.interop.published.names import ADAPTER, CONDITION, LORA, norm_modules
from hyperloader.interop.published.settings import RANK, Sizes, size

_DEVIATION = 0.01  # of every linear weight in a new model


class AdapterLayersOneHyperNetController(nn.Module):
    """Generates the adapters, their norms and the LoRA pairs of every layer of one stack.

    The first layer that is asked for generates all layers in one batch; the others are served from it. What was
    generated is used again only while it is what would be generated now:

    * with a gradient, a batch serves every layer once, and none any more once a backward has come to it: a second
      forward has a graph of its own;
    * without one, it serves until something changes: the tensor ``task_embedding`` is another one, it or a parameter
      is written in place, replaced, moved or given another ``.data``, or a weight that was served is written in place.

    One kind of write goes unnoticed: in place through ``parameter.data``, ``.numpy()`` or a detached alias of them,
    such as ``parameter.data.add_(1)``. A forward with a gradient, ``train()`` and ``eval()`` all begin anew, so a
    training loop around such an optimizer is safe; between two forwards without a gradient call ``forget()``.

    Each thread has a batch of its own. The cross-attention pairs are generated when the first is read. Hand in one
    tensor for all layers: another tensor of the same numbers begins a new batch. Submodules hold parameters and are not
    called, so hooks on them see nothing. Inside functions that are recomputed by non-reentrant gradient checkpointing
    the layers cannot be asked for, as it wants every function to be self-contained.

    Args:
        config: an object with the attributes ``task_embedding_dim``, ``projected_task_embedding_dim``,
            ``task_hidden_dim``, ``input_dim``, ``reduction_factor``, ``unique_hyper_net_layer_norm``,
            ``add_layer_norm_before_adapter``, ``add_layer_norm_after_adapter`` and ``device``. As in the published
            code, ``conditional_layer_norm`` is not read: the adapters' norms are generated whatever it says.
        num_layers: layers of the stack.

    Raises:
        AttributeError, TypeError, ValueError: an attribute that is missing or that is not supported.

    Source: arXiv 2407.01411, section 3.
    """

    def __init__(self, config: Any, num_layers: int = 6) -> None:
        super().__init__()
        sizes = Sizes.of(config)
        self.num_layers = size("num_layers", num_layers)
        with sizes.device:
            self._build(sizes)
        norms = norm_modules(sizes.norm_before, sizes.norm_after)
        modules = [*CONDITION, *ADAPTER, *norms, *LORA]
        if not sizes.condition_norm:
            modules.remove("LayerNorm")
        one = ("layer_id_embeddings", "adapters_block_type", *LORA)  # modules of a weight alone
        self._paths = [(path.split("."), ("weight",) if path in one else ("weight", "bias")) for path in modules]
        hidden, bottleneck = sizes.hidden, sizes.bottleneck
        adapter_shapes = ((bottleneck, hidden), (bottleneck,), (hidden, bottleneck), (hidden,))
        self._plan = Plan(
            condition_norm=sizes.condition_norm,
            adapter_shapes=(*adapter_shapes, *[(hidden,)] * len(norms)),
            lora_shapes=((RANK, hidden), (hidden, RANK)),
            norm_before=sizes.norm_before,
            norm_after=sizes.norm_after,
        )
        self._embedding_dim = sizes.task_embedding_dim
        self._served = _Served()

    def forward(self, task_embedding: Tensor, layer_id: int) -> LayerWeights:
        """The weights of one layer.

        Args:
            task_embedding: task_embedding_dim numbers, of any shape.
            layer_id: from 0 to num_layers - 1.

        Returns:
            An object with the fields ``feed_forward`` and ``self_attention`` (each with ``up`` and ``down``:
            ``weight``, ``bias``; ``pre_norm`` and ``post_norm``: ``weight``, ``bias`` or None) and ``lora_query``,
            ``lora_value``, ``lora_cross_query``, ``lora_cross_value`` (each with ``a`` and ``b``).

        Raises:
            TypeError, IndexError, ValueError: a layer or a task embedding that is none of this stack.
        """
        layer_id = self._layer(layer_id)
        self._check(task_embedding)
        tensors = [task_embedding, *self._tensors()]
        state = state_of(tensors)
        if state is None:  # then nothing would tell that the next layer is to be generated anew
            return self._generate(tensors, range(layer_id, layer_id + 1), None).serve(layer_id)
        served = self._served
        generation = served.generation
        if generation is None or not generation.serves(layer_id, state):
            served.generation = generation = None  # before the next one needs its memory
            served.generation = generation = self._generate(tensors, range(self.num_layers), state)
        weights = generation.serve(layer_id)
        if generation.exhausted:
            served.generation = None
        return weights

    def forget(self) -> None:
        """Begin anew with the next layer that is asked for."""
        self._served = _Served()

    def train(self, mode: bool = True) -> "AdapterLayersOneHyperNetController":
        """As every module's; begins anew."""
        self.forget()
        return super().train(mode)

    def _apply(self, *arguments: Any, **options: Any) -> Any:  # what .to(), .half(), .cuda() come down to
        self.forget()
        return super()._apply(*arguments, **options)

    def _generate(self, tensors: list[Tensor], layers: range, state: tuple | None) -> Generation:
        return Generation(Source(self._plan, tensors, layers, state))

    def _check(self, task_embedding: Tensor) -> None:
        if not isinstance(task_embedding, Tensor):
            raise TypeError(f"task_embedding must be a tensor, got {task_embedding!r:.80}")
        if task_embedding.numel() != self._embedding_dim:
            raise ValueError(
                f"task_embedding must hold {self._embedding_dim} numbers, got shape {tuple(task_embedding.shape)}"
            )

    def _layer(self, layer_id: int) -> int:
        try:
            layer_id = operator.index(layer_id)
        except TypeError:
            raise TypeError(f"layer_id must be a whole number, got {layer_id!r}") from None
        if not 0 <= layer_id < self.num_layers:
            raise IndexError(f"layer_id must be from 0 to {self.num_layers - 1}, got {layer_id}")
        return layer_id

    def _tensors(self) -> list[Tensor]:
        """Every parameter in the order of the operators' arguments, looked up anew: any may have been replaced."""
        found = []
        for path, names in self._paths:
            module: Any = self
            for name in path:
                module = module._modules[name]  # many times faster than attributes, and asked in every call
            parameters = module._parameters
            for name in names:
                tensor = parameters.get(name)
                found.append(getattr(module, name) if tensor is None else tensor)
        return found

    def _build(self, sizes: Sizes) -> None:
        condition_dim, hidden, bottleneck = sizes.condition_dim, sizes.hidden, sizes.bottleneck

        def head(*shape: int, bias: bool = True) -> nn.Linear:
            linear = nn.Linear(condition_dim, math.prod(shape), bias)
            nn.init.normal_(linear.weight, 0, _DEVIATION)
            if bias:
                nn.init.zeros_(linear.bias)
            return linear

        def heads(rows: int, columns: int) -> nn.ModuleDict:
            weight, bias = nn.Sequential(head(rows, columns)), nn.Sequential(head(rows))
            return nn.ModuleDict({"weight_generator": weight, "bias_generator": bias})

        def norm() -> nn.ModuleDict:
            return nn.ModuleDict({"weight_generator": head(hidden), "bias_generator": head(hidden)})

        def lora(rows: int, columns: int) -> nn.ModuleDict:
            return nn.ModuleDict({"weight_generator": nn.Sequential(head(rows, columns, bias=False))})

        embedding_dim = sizes.task_embedding_dim
        self.layer_id_embeddings = nn.Embedding(self.num_layers, embedding_dim)
        self.adapters_block_type = nn.Embedding(6, embedding_dim)
        first = nn.Linear(3 * embedding_dim, sizes.condition_hidden_dim)
        second = nn.Linear(sizes.condition_hidden_dim, condition_dim)
        for linear in (first, second):
            nn.init.normal_(linear.weight, 0, _DEVIATION)
            nn.init.zeros_(linear.bias)
        self.task_hypernet = nn.ModuleDict({"task_embeding_generator": nn.Sequential(first, nn.ReLU(), second)})
        if sizes.condition_norm:
            self.LayerNorm = nn.LayerNorm(condition_dim, eps=1e-6)
        self.up_sampler_hyper_net = heads(hidden, bottleneck)
        self.down_sampler_hyper_net = heads(bottleneck, hidden)
        self.lora_a_hyper_net = lora(RANK, hidden)
        self.lora_b_hyper_net = lora(hidden, RANK)
        nn.init.kaiming_uniform_(self.lora_a_hyper_net.get_parameter("weight_generator.0.weight"), a=math.sqrt(5))
        nn.init.zeros_(self.lora_b_hyper_net.get_parameter("weight_generator.0.weight"))
        if sizes.norm_before:
            self.pre_layernorm_hypernet = norm()
        if sizes.norm_after:
            self.post_layernorm_hypernet = norm()


class _Served(threading.local):
    """What this thread is served from."""

    def __init__(self) -> None:
        self.generation: Generation | None = None

    def __reduce__(self) -> tuple:  # copied or pickled with its controller, it starts empty
        return type(self), ()
