"""A frozen backbone, and hypernetworks that generate its adapters, LoRA updates and their norms for every task."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hyperloader.backbones.compiled import without_compile
from hyperloader.config import HyperLoaderConfig
from hyperloader.model import calling, merging, pretrained
from hyperloader.model.export import ExportedTask
from hyperloader.model.growing_model import GrowingModel
from hyperloader.model.task_model import TaskModel
from hyperloader.model.task_selection import TaskSelection, number_of_sentences
from hyperloader.nn.sharded import gathered, whole_copy
from hyperloader.nn.stacked import Sites


class HyperLoaderModel(GrowingModel):
    """Fine-tunes one frozen ``backbone`` on many tasks (HyperLoader, arXiv 2407.01411).

    Attaching wraps some of the backbone's ``nn.Linear`` layers in place and freezes it; nothing is copied.
    ``detach()`` gives it back as it was. Trained are the hypernetworks, the task embeddings, the backbone's own layer
    norms (``config.train_norms``) and, with ``config.labels``, one token-classification head per task. All that is
    trained is float32, or float64, in a backbone of half precision too: ``.half()`` and ``.to(dtype)`` cast the rest.

    Until the process ends, the first model makes PyTorch count the steps of fused optimizers as changes of their
    parameters, which the weight bank looks at, and has the label smoothing of transformers' Trainer leave out logits of
    -inf, as mixed batches have them; importing the package changes nothing.

    Args:
        backbone: a transformers model of a family in ``hyperloader.backbones.FAMILIES``.
        config: sizes and switches.
        tokenizer: of the backbone, for the words of a model with ``config.descriptions``; by default the one that
            stands where the backbone was loaded from.
        embed_texts: False leaves the embeddings of those words NaN: they are to be loaded.

    Raises:
        ValueError: an unsupported backbone, one that is attached already, or sizes that do not fit it.
        TypeError: a backbone that is no module, or a config of another type.
    """

    def __new__(cls, backbone: nn.Module | None = None, *_: Any, **__: Any) -> "HyperLoaderModel":
        return pretrained.new(cls, without_compile(backbone))

    def __init__(
        self, backbone: nn.Module, config: HyperLoaderConfig, tokenizer: Any = None, embed_texts: bool = True
    ) -> None:
        calling.start_graphs_at_forward(HyperLoaderModel)
        super().__init__(backbone, config, tokenizer, embed_texts)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """``forward``, with the hooks of modules; ``torch.compile`` makes one graph for every ``task``."""
        if torch.compiler.is_compiling() or "backbone" not in self._modules:
            return super().__call__(*arguments, **options)
        return calling.call(super().__call__, arguments, options, self._named, self._forwards, self.heads)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        task: str | None = None,
        task_ids: Tensor | None = None,
        targets: Tensor | None = None,
        **backbone_arguments: Any,
    ) -> Any:
        """Run the backbone with the weights of ``task``, or of each sentence's own task.

        Args:
            input_ids: (batch, tokens) int64.
            attention_mask: (batch, tokens).
            labels: with ``config.labels`` (batch, tokens), indices into the labels of the sentence's own task, -100
                where nothing is labelled, of a classification the label at the first token; without them, what the
                backbone takes.
            task: name of the task of the whole batch.
            task_ids: (batch,) int64, the task of each sentence, an index into the config's tasks.
            targets: (batch, numbers) float, beside ``labels``: of a regression the standardised value, of a multi-label
                task 1 or 0 for each label, NaN elsewhere.
            backbone_arguments: what else the backbone's ``forward`` takes.

        Returns:
            The backbone's own output or, with ``config.labels``, a ``TokenClassifierOutput`` whose ``loss`` is the mean
            cross entropy over labelled tokens (0 without any) and whose ``logits`` are (batch, tokens, labels of
            ``task``); with ``task_ids`` (batch, tokens, most labels of any task), where the columns beyond the labels
            of a sentence's own task are -inf. These logits have the heads' dtype, not that of the backbone. A task of
            whole sentences (``config.kinds``) has the same at every token, and the loss is ``nn.loss.loss_by_task``.

        Raises:
            ValueError, TypeError, IndexError: an unknown task, a task id out of range, neither or both of them.
        """
        with self._forwards.running():
            selection = self._selection(task, task_ids, input_ids, backbone_arguments)
            trained_task = None if self.hyperloader_config.generator == "table" else self.task_embedding.trained_task
            if trained_task is not None and self.training and torch.is_grad_enabled():
                selection.check_trains(trained_task, self.hyperloader_config)
            with self._active.use(self.weight_provider.weights_for(selection)):
                outputs = self.run_backbone(
                    labels, input_ids=input_ids, attention_mask=attention_mask, **backbone_arguments
                )
            options = {"all_columns": task is None, "attention_mask": attention_mask, "targets": targets}
            return self.run_heads(outputs, labels, selection.tasks, **options)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor | None = None,
        *,
        task: str | None = None,
        task_ids: Tensor | None = None,
        **generate_arguments: Any,
    ) -> Any:
        """The backbone's ``generate`` with the weights of ``task`` or ``task_ids``, made once for the whole call.

        Takes every argument of transformers' ``generate``; raises ``TypeError`` for a backbone that cannot generate,
        and what ``forward`` raises.
        """
        with self._forwards.running():
            self._check_attached()
            if not callable(getattr(self.backbone, "generate", None)) or not self.backbone.can_generate():
                raise TypeError(f"backbone must be able to generate, got {type(self.backbone).__name__}")
            selection = self._selection(task, task_ids, input_ids, generate_arguments)
            with self._active.use(self.weight_provider.weights_for(selection)):
                return self.backbone.generate(input_ids=input_ids, **generate_arguments)

    @torch.no_grad()
    def weights_of(self, task: str) -> Sites:
        """What the hypernetworks generate for ``task``, from the weight bank; not to be written to.

        Returns:
            (stack, layer, site) -> the site's tensors, in the order of ``ops.adapter``'s or ``ops.lora_linear``'s
            arguments (``lora_A``, ``lora_B``), in the backbone's dtype.

        Raises:
            ValueError: an unknown task. RuntimeError: the model is being trained.
        """
        self._check_attached()
        index = self.hyperloader_config.task_id(task)
        if self.training:
            raise RuntimeError("the weight bank serves a model in evaluation mode: call model.eval() first")
        with gathered(self.generators, getattr(self, "task_embedding", None)):
            return self.weight_provider.of_task(index)

    @torch.inference_mode(False)  # what is merged may be trained, cast and saved later
    @torch.no_grad()
    def merge(self, task: str, *, inplace: bool = False, dequantize: bool = False) -> TaskModel:
        """Fold the LoRA updates of ``task`` into the projections and give the adapters their generated weights.

        Args:
            task: name of a task.
            inplace: put the merged layers into this model's own backbone, which serves no other task until
                ``unmerge()``; else into a copy of it. The backbone's norms are one and the same then: training them in
                the merged model changes them for every task. Forwards that are running in other threads end first;
                those that begin later are refused.
            dequantize: give the copy plain layers in the place of quantised ones, whose LoRA updates else stay beside
                them, in a model that cannot be saved.

        Returns:
            A plain module without hypernetworks, in the mode that the backbone is in; it is called, saved and loaded
            on its own.

        Raises:
            ValueError: an unknown task, or both ``inplace`` and ``dequantize``. RuntimeError: the model is being
                trained, or merged already.
        """
        if inplace and dequantize:
            raise ValueError("dequantize must be False with inplace=True, which keeps the backbone's own layers")
        if inplace:
            self._check_not_sharded("merge(..., inplace=True)")
        with self._forwards.changing("merge()") if inplace else nullcontext():
            one = self._exported(task)
            backbone = self.backbone if inplace else whole_copy(self.backbone)
            if dequantize:
                merging.dequantize(backbone)
            wrapped = merging.fold_in(backbone, self.site_paths, one.weights, one.config)
            merged = TaskModel(backbone, one.config, one.heads).train(backbone.training)
            if inplace:
                self._merged, merged._forwards = (merged, wrapped), self._forwards
        return merged

    @torch.inference_mode(False)
    def unmerge(self) -> None:
        """Undo ``merge(..., inplace=True)``, to the bit; raises ``RuntimeError`` if nothing is merged.

        If the backbone was cast or put on another device meanwhile, so are the layers that come back. The merged model
        can no longer be called or saved.
        """
        with self._forwards.changing("unmerge()"):
            if self._merged is None:
                raise RuntimeError("nothing is merged into this model's backbone")
            merged, wrapped = self._merged
            merging.take_out(self.backbone, wrapped)
            self._attachment.norms_to_float32(self.backbone)
            self._merged, merged.unmerged = None, True

    def export_task(self, task: str, folder: str | Path, *, is_main_process: bool = True) -> None:
        """Write ``task`` alone, with what is generated for it, its head and the trained norms: ``from_pretrained``
        loads it, without hypernetworks. ``is_main_process`` is as in ``save_pretrained``.

        Raises:
            ValueError: an unknown task, or a folder that holds something else.
        """
        self._exported(task).save(folder, is_main_process)

    def export_peft(
        self,
        task: str,
        folder: str | Path,
        *,
        lora_only: bool = False,
        overwrite: bool = False,
        is_main_process: bool = True,
    ) -> None:
        """Write the LoRA updates of ``task`` as ``peft.PeftModel.from_pretrained`` loads them.

        ``is_main_process`` is as in ``save_pretrained``.

        Raises:
            ValueError: an unknown task; what PEFT's LoRA cannot hold (adapters, trained norms, a head), as a list,
                unless ``lora_only`` leaves it out; a folder with the adapter of anything but this task, unless
                ``overwrite``.
        """
        exported = self._exported(task)
        if is_main_process:
            exported.save_peft(folder, lora_only=lora_only, overwrite=overwrite)

    def _exported(self, task: str) -> ExportedTask:
        weights = self.weights_of(task)
        config = merging.config_of_task(self.hyperloader_config, task)
        with gathered(self.heads):
            heads = None if self.heads is None else self.heads.of(self.hyperloader_config.task_id(task))
        return ExportedTask(config, weights, heads, self.layouts, self.site_paths, self.backbone, self.norm_names)

    def _named(self, task: object) -> object:
        device = next(self.generators.parameters()).device
        return self._named_tasks.get(task, self.hyperloader_config.tasks, device)

    def _selection(
        self, task: str | None, task_ids: Tensor | None, input_ids: Tensor | None, arguments: Mapping[str, Any]
    ) -> TaskSelection:
        self._check_attached()
        sentences = number_of_sentences(input_ids, arguments)
        return TaskSelection.of(self.hyperloader_config, task, task_ids, sentences)
