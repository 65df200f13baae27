"""transformers' Trainer for many tasks at once: our batches, our loss, scores per task, exact resume."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer import SCHEDULER_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from hyperloader.checkpoints.atomic import writing_folder
from hyperloader.checkpoints.card_file import keep_card
from hyperloader.data.examples import Example
from hyperloader.model import HyperLoaderModel
from hyperloader.training import fsdp
from hyperloader.training.arguments import tracker_of, training_arguments
from hyperloader.training.batches import Batch, TrainBatches
from hyperloader.training.callbacks import Bar, LastEvaluation, StepTimes
from hyperloader.training.finite import LossSum, check_weights
from hyperloader.training.folders import prune
from hyperloader.training.headlines import headline, mean_key, mean_of
from hyperloader.training.loss import SharesLoss, SummedLoss, has_whole_sentences, weights_of_update
from hyperloader.training.optimizer import clip_sparse, exchange_sparse, has_sparse_gradients, make_optimizer
from hyperloader.training.presets import TrainingOptions
from hyperloader.training.progress import Progress
from hyperloader.training.reporting import EvaluationLines
from hyperloader.training.weights import load_weights


class MultiTaskTrainer(Trainer):
    """Trains a model of ``build_model``.

    Args:
        model: has ``forward(input_ids, attention_mask, labels, task_ids)`` with a mean loss.
        options: the training.
        output: folder of the run; gets ``checkpoint-N`` and ``best``.
        examples: of each task, its training examples, as the formulation encodes them.
        collate: examples to a batch.
        validate: model to ``{"tasks": {task: scores}, "mean_f1": number}``, as ``score_tasks`` returns them.
        seed: of dropout.
        data_seed: of the order of the batches.
        progress: show a progress bar.
        lines: write a line an evaluation to standard output.
        counts: of each task's labels, how often it is met in ``examples``; None for text-to-text, and with tasks of
            whole sentences.
        causal: as in ``SummedLoss``.
        check_output: called before anything is written and at every log; raises where ``output`` is no longer there.
    """

    def __init__(
        self,
        model: nn.Module,
        options: TrainingOptions,
        output: str | Path,
        examples: Sequence[Sequence[Example]],
        collate: Callable[[Sequence[Example]], Batch],
        validate: Callable[[nn.Module], dict],
        seed: int = 0,
        data_seed: int = 0,
        progress: bool = True,
        lines: bool = False,
        counts: Sequence[Tensor] | None = None,
        causal: bool | None = None,
        check_output: Callable[[], None] = lambda: None,
    ) -> None:
        self.options = options
        self.check_output = check_output
        self.multi_task_model: Any = model
        self.examples = examples
        self.validate = validate
        self.data_seed = data_seed
        self.progress = Progress()
        self.best_scores: dict | None = None  # of this process's evaluations, those of the weights in ``best``
        args = training_arguments(options, Path(output), seed, progress, isinstance(model, HyperLoaderModel))
        summed = SummedLoss(model, options.label_smoothing, causal)
        super().__init__(model=summed, args=args, data_collator=collate, eval_dataset=examples)
        self.loss_dtype = summed.dtype
        whole = has_whole_sentences(model)
        self.weighted, self.causal = options.loss == "mean" and (causal is not None or whole), bool(causal)
        self.task_count = len(cast(Any, model).heads.kind_numbers) if whole else len(examples)
        self.weights: Tensor | None = None  # of ``loss_by_task``, those of the update
        self.model_accepts_loss_kwargs = True  # so that Trainer counts the labels of an update
        self.loss_is_scaled_for_ga = True
        if has_sparse_gradients(model):
            clip_sparse(self.accelerator)
        self.step_times = StepTimes(args.device.type == "cuda")
        self.add_callback(self.step_times)
        self.add_callback(LastEvaluation())
        self.lines = EvaluationLines(options, lines)
        self.add_callback(self.lines)
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        if progress:
            self.add_callback(Bar())
        tracker = tracker_of(options.report_to)
        if tracker is not None:
            (kind,) = get_reporting_integration_callbacks([tracker])
            reporting = kind()
            if tracker == "tensorboard":
                reporting.logging_dir = str(Path(output) / "tensorboard")
            self.add_callback(reporting)
        self.losses = LossSum(options, Path(output), args.device)
        comparable = counts is not None and options.loss == "mean" and not options.label_smoothing
        self.shares_loss = SharesLoss(counts, args.device) if counts is not None and comparable else None
        self._counted_step = -1
        self._exchanging: nn.Module | None = None  # what ``exchange_sparse`` has had

    def create_accelerator_and_postprocess(self) -> None:
        """What speaks to the other processes; called by Trainer's constructor."""
        super().create_accelerator_and_postprocess()
        self.is_fsdp_enabled = fsdp.shard_on_cpus(self.accelerator)

    def get_train_dataloader(self) -> Any:
        """Batches from the current step on: each is a function of its number alone, so nothing has to be skipped."""
        args, next_step = self.args, lambda: self.state.global_step
        part = {"process": args.process_index, "processes": args.world_size}
        collate: Any = self.data_collator
        return TrainBatches(self.options, self.examples, collate, self.data_seed, next_step, **part)

    def train(self, *arguments: Any, **options: Any) -> Any:
        """Trainer's own, without what FSDP warns of."""
        with fsdp.fsdp_training() if fsdp.uses_fsdp(self.accelerator) else nullcontext():
            return super().train(*arguments, **options)

    def _prepare_for_training(self, *arguments: Any, **options: Any) -> Any:
        if fsdp.uses_fsdp(self.accelerator):
            fsdp.shard(self.accelerator, self.multi_task_model)
        return super()._prepare_for_training(*arguments, **options)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer over what is trained."""
        if self.optimizer is None:
            self.optimizer = make_optimizer(self.multi_task_model, self.options)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule of the optimizer, which accelerate has prepared now."""
        if fsdp.uses_fsdp(self.accelerator):
            fsdp.give_parameters(
                self._optimizer_and_scheduler()[0], make_optimizer(self.multi_task_model, self.options)
            )
        return super().create_scheduler(num_training_steps, optimizer)

    def get_batch_samples(self, *arguments: Any, **options: Any) -> Any:
        """The batches of an update, and how many labels they have; with tasks of several kinds also ``weights``."""
        batches, count = super().get_batch_samples(*arguments, **options)
        if self.weighted:
            of = (self.task_count, self.causal, self.accelerator, self.loss_dtype)
            self.weights = weights_of_update(batches, *of)
        return batches, count

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """The batch's share of the loss of an update.

        ``mean``: the sum over the batch divided by all labelled tokens of the update, on all processes; ``sum``: the
        sum over the batch divided by the number of batches of the update. The processes' gradients are averaged, so
        that each one's loss is multiplied by their number. With tasks of several kinds, and of decoders,
        ``loss_by_task`` over the whole update, or as the sum over a batch's sentences, and then the mean of batches.
        """
        assert not self.weighted or self.weights is not None, "``get_batch_samples`` comes first"
        with self._autocast():
            loss = model(**inputs, weights=self.weights) if self.weighted else model(**inputs)
        if self.options.loss == "sum":
            return loss / self.options.gradient_accumulation
        loss = loss * self.args.world_size
        if self.weighted:
            return loss
        if self.shares_loss is not None:
            before, self._counted_step = self._counted_step, self.state.global_step
            self.shares_loss.add(inputs["labels"], inputs["task_ids"], num_items_in_batch, before != self._counted_step)
        return loss / num_items_in_batch

    def _autocast(self) -> AbstractContextManager:
        """What a forward is computed in; without FSDP accelerate has put it into the model."""
        return self.accelerator.autocast() if fsdp.uses_fsdp(self.accelerator) else nullcontext()

    def training_step(self, model: nn.Module, inputs: Batch, num_items_in_batch: Any = None) -> Tensor:
        """One batch forward and backward. A loss that is NaN or infinite ends the training."""
        if model is not self._exchanging and has_sparse_gradients(self.multi_task_model):
            self._exchanging = model
            exchange_sparse(model)
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.losses.add(loss, self.state.global_step + 1)
        return loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Score the validation sets; keep the weights in ``best`` if they are the best so far.

        With ``select: last`` this happens once, at the last step.
        """
        self.losses.check()
        scores = self._validated()
        progress, step = self.progress, self.state.global_step
        self._drain_loss()
        if progress.evaluated(step, scores):
            self._save_best()
            self.best_scores = scores
        elif self.options.patience and progress.without_improvement >= self.options.patience:
            self.control.should_training_stop = self.control.should_save = True
        if step >= self.options.steps or self.control.should_training_stop:
            progress.finished = True
        if self.is_world_process_zero():
            self.lines.evaluated(step, progress.curve[-1]["train_loss"], scores, self._shares_loss())
        metrics = {f"{metric_key_prefix}_{mean_key(scores)}": mean_of(scores)}
        for task, one in scores["tasks"].items():
            metrics[f"{metric_key_prefix}_{task}_{headline(one)}"] = one[headline(one)]
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _validated(self) -> dict:
        with self.accelerator.autocast():
            return self.validate(self.multi_task_model)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's logging, after checking that the loss is finite and the output folder still there."""
        self.losses.check()
        self.check_output()
        super().log(logs, start_time)

    def _shares_loss(self) -> float | None:
        """What the loss since the last evaluation would be of one who knows the labels' shares alone."""
        mean = None if self.shares_loss is None else self.shares_loss.take()
        return None if mean is None else mean * self.args.world_size

    def _drain_loss(self) -> None:
        total = self.accelerator.reduce(self.losses.total.clone(), "mean").item()
        last = self.progress.curve[-1]["step"] if self.progress.curve else 0
        self.progress.loss_sum += total
        self.progress.loss_steps = self.state.global_step - last
        self.losses.total.zero_()

    def _save_best(self) -> None:
        with self._writing("best") as folder:
            self._save_model(folder)
            if self.args.should_save:
                keep_card(Path(str(self.args.output_dir)) / "best", folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.losses.check()
        self._drain_loss()
        self.progress.processes, self.progress.batch_size = self.args.world_size, self.options.batch_size
        self.progress.seconds_per_step = self.step_times.median() or self.progress.seconds_per_step
        with self._writing(f"checkpoint-{self.state.global_step}") as folder:
            self._save_model(folder)
            if self.args.should_save:
                self.progress.save(folder)
                self.state.save_to_json(str(folder / "trainer_state.json"))
            self._save_optimizer_and_scheduler(str(folder))
            self._save_scaler(str(folder))
            self._save_rng_state(str(folder))
        if self.args.should_save:
            prune(Path(str(self.args.output_dir)), self.options.keep_checkpoints)

    def _save_model(self, folder: Path) -> None:
        main = {} if self.args.should_save else {"is_main_process": False}
        if self.args.should_save or fsdp.uses_fsdp(self.accelerator):
            self.multi_task_model.save_pretrained(folder, **main)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not fsdp.uses_fsdp(self.accelerator):
            super()._save_optimizer_and_scheduler(output_dir)
            return
        optimizer, scheduler = self._optimizer_and_scheduler()
        fsdp.save_optimizer(optimizer, Path(output_dir), self.args.should_save)
        if self.args.should_save:
            torch.save(scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not fsdp.uses_fsdp(self.accelerator):
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        optimizer, scheduler = self._optimizer_and_scheduler()
        fsdp.load_optimizer(optimizer, Path(checkpoint))
        scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))

    def _optimizer_and_scheduler(self) -> tuple[torch.optim.Optimizer, Any]:
        """Which the trainer makes before it saves or loads any."""
        assert self.optimizer is not None
        return self.optimizer, self.lr_scheduler

    def _writing(self, name: str) -> AbstractContextManager[Path]:
        check_weights(self.multi_task_model, self.state.global_step, self.options.learning_rate)
        self.check_output()
        folder = Path(str(self.args.output_dir)) / name
        return writing_folder(folder, main=self.args.should_save, wait=self.accelerator.wait_for_everyone)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_weights(self.multi_task_model, Path(resume_from_checkpoint))
        self.progress = Progress.load(Path(resume_from_checkpoint))
