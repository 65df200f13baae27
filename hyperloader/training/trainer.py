"""transformers' Trainer for many tasks at once: our batches, our loss, scores per task, exact resume."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import Trainer
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from hyperloader.checkpoints.atomic import writing_folder
from hyperloader.data.sampler import MultiTaskBatches
from hyperloader.training.arguments import training_arguments, wants_tensorboard
from hyperloader.training.folders import checkpoints, prune
from hyperloader.training.loss import sequence_loss
from hyperloader.training.optimizer import TransformersAdamW
from hyperloader.training.presets import TrainingOptions
from hyperloader.training.progress import Bar, LastEvaluation, Progress, StepTimes
from hyperloader.training.reporting import EvaluationLines
from hyperloader.training.weights import broken_weights, load_weights, trained_parameters


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the last good checkpoint is kept."""


class SummedLoss(nn.Module):
    """A model and its loss, summed over the labelled tokens of a batch: what one training step computes."""

    def __init__(self, model: nn.Module, label_smoothing: float):
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing

    def forward(self, input_ids, attention_mask, labels, task_ids) -> torch.Tensor:
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, labels=labels, task_ids=task_ids)
        if self.label_smoothing:
            return sequence_loss(output.logits, labels, "sum", self.label_smoothing)
        return output.loss * labels.ne(-100).sum()


class TrainBatches:
    """Collated batches from ``step`` on, without end in sight for Trainer: it must not skip any itself."""

    def __init__(self, examples: Sequence[Sequence], collate: Callable, batches: Callable[[], MultiTaskBatches]):
        self.examples = examples
        self.collate = collate
        self.batches = batches

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for batch in self.batches():
            yield self.collate([self.examples[task][index] for task, index in batch])


class MultiTaskTrainer(Trainer):
    """Trains a model of ``build_model``.

    Args:
        model: has ``forward(input_ids, attention_mask, labels, task_ids)`` with a mean loss.
        options: the training.
        output: folder of the run; gets ``checkpoint-N`` and ``best``.
        examples: of each task, its training examples, as the formulation encodes them.
        collate: examples to a batch.
        validate: model to ``{"tasks": {task: scores}, "mean_f1": number}``.
        seed: of dropout.
        data_seed: of the order of the batches.
        progress: show a progress bar.
        lines: write a line an evaluation to standard output.
        check_output: called before anything is written and at every log; raises where ``output`` is no longer there.
    """

    def __init__(
        self,
        model: nn.Module,
        options: TrainingOptions,
        output: str | Path,
        examples: Sequence[Sequence],
        collate: Callable,
        validate: Callable[[nn.Module], dict],
        seed: int = 0,
        data_seed: int = 0,
        progress: bool = True,
        lines: bool = False,
        check_output: Callable[[], None] = lambda: None,
    ):
        self.options = options
        self.check_output = check_output
        self.task_model = model
        self.examples = examples
        self.validate = validate
        self.data_seed = data_seed
        self.progress = Progress()
        args = training_arguments(options, Path(output), seed, progress)
        super().__init__(
            model=SummedLoss(model, options.label_smoothing), args=args, data_collator=collate, eval_dataset=examples
        )
        self.model_accepts_loss_kwargs = True  # so that Trainer counts the labels of an update
        self.loss_is_scaled_for_ga = True
        self.step_times = StepTimes(args.device.type == "cuda")
        self.add_callback(self.step_times)
        self.add_callback(LastEvaluation())
        self.lines = EvaluationLines(options, lines)
        self.add_callback(self.lines)
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        if progress:
            self.add_callback(Bar())
        if wants_tensorboard(options.report_to):
            board = TensorBoardCallback()
            board.logging_dir = str(Path(output) / "tensorboard")
            self.add_callback(board)
        self._loss_sum = torch.zeros((), device=args.device)
        self._bad_step = torch.full((), -1, device=args.device)

    # Data

    def get_train_dataloader(self) -> TrainBatches:
        """Batches from the current step on: each is a function of its number alone, so nothing has to be skipped."""
        options, args = self.options, self.args
        accumulation = options.gradient_accumulation
        lengths = None
        if options.bucket > 1:
            lengths = [[len(example.input_ids) for example in task] for task in self.examples]

        def batches():
            return MultiTaskBatches(
                [len(task) for task in self.examples],
                options.batch_size * args.world_size,
                options.steps * accumulation,
                seed=self.data_seed,
                start_step=self.state.global_step * accumulation,
                process_index=args.process_index,
                num_processes=args.world_size,
                lengths=lengths,
                **options.batches,
            )

        return TrainBatches(self.examples, self.data_collator, batches)

    # Optimisation

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """AdamW over what is trained; biases and norms do not decay."""
        if self.optimizer is None:
            rate, decay = self.options.learning_rate, self.options.weight_decay
            trained = trained_parameters(self.task_model).values()
            groups = [
                {"params": [one for one in trained if one.ndim > 1], "weight_decay": decay},
                {"params": [one for one in trained if one.ndim <= 1], "weight_decay": 0.0},
            ]
            groups = [group for group in groups if group["params"]]
            if self.options.optimizer == "adamw_hf":
                self.optimizer = TransformersAdamW(groups, lr=rate)
            else:
                self.optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=decay, fused=True)
        return self.optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The batch's share of the loss of an update.

        ``mean``: the sum over the batch divided by all labelled tokens of the update, on all processes; ``sum``: the
        sum over the batch divided by the number of batches of the update. The processes' gradients are averaged, so
        that each one's loss is multiplied by their number.
        """
        loss = model(**inputs) * self.args.world_size
        if self.options.loss == "mean":
            return loss / num_items_in_batch
        return loss / (self.options.gradient_accumulation * self.args.world_size)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """One batch forward and backward. A loss that is NaN or infinite ends the training."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        finite = torch.isfinite(loss)
        self._bad_step = torch.where(finite | (self._bad_step >= 0), self._bad_step, self.state.global_step + 1)
        self._loss_sum += loss
        if loss.device.type == "cpu":  # elsewhere this would wait for the device: there, before logging and saving
            self._check_loss()
        return loss

    def _check_loss(self) -> None:
        step = int(self._bad_step)
        if step >= 0:
            kept = checkpoints(Path(self.args.output_dir))
            raise NonFiniteLossError(
                f"the loss must be finite, got NaN or infinity at step {step}; lower training.learning_rate (now "
                f"{self.options.learning_rate:g}) or lengthen training.warmup (now {self.options.warmup_steps:,}). "
                + (f"The last good checkpoint is {kept[-1]}" if kept else "There is no checkpoint yet")
            )

    # Evaluation, logs

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval") -> dict[str, float]:
        """Score the validation sets; keep the weights in ``best`` if they are the best so far.

        With ``select: last`` this happens once, at the last step.
        """
        self._check_loss()
        scores = self._validated()
        progress, step = self.progress, self.state.global_step
        self._drain_loss()
        if progress.evaluated(step, scores["mean_f1"]):
            self._save_best()
        elif self.options.patience and progress.without_improvement >= self.options.patience:
            self.control.should_training_stop = self.control.should_save = True
        if step >= self.options.steps or self.control.should_training_stop:
            progress.finished = True
        if self.is_world_process_zero():
            self.lines.evaluated(step, progress.curve[-1]["train_loss"], scores)
        metrics = {f"{metric_key_prefix}_{task}_f1": one["f1"] for task, one in scores["tasks"].items()}
        metrics[f"{metric_key_prefix}_mean_f1"] = scores["mean_f1"]
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _validated(self) -> dict:
        with self.accelerator.autocast():
            return self.validate(self.task_model)

    def log(self, logs, start_time=None) -> None:
        """Trainer's logging, after making sure that the numbers are any and that the output is still there."""
        self._check_loss()
        self.check_output()
        super().log(logs, start_time)

    def _drain_loss(self) -> None:
        total = self.accelerator.reduce(self._loss_sum.clone(), "mean").item()
        last = self.progress.curve[-1]["step"] if self.progress.curve else 0
        self.progress.loss_sum += total
        self.progress.loss_steps = self.state.global_step - last
        self._loss_sum.zero_()

    # Checkpoints

    def _save_best(self) -> None:
        with self._writing("best") as folder:
            if self.args.should_save:
                self.task_model.save_pretrained(folder)

    def _save_checkpoint(self, model, trial) -> None:
        self._check_loss()
        self._drain_loss()
        self.progress.processes = self.args.world_size
        self.progress.seconds_per_step = self.step_times.median() or self.progress.seconds_per_step
        with self._writing(f"checkpoint-{self.state.global_step}") as folder:
            if self.args.should_save:
                self.task_model.save_pretrained(folder)
                self.progress.save(folder)
                self.state.save_to_json(str(folder / "trainer_state.json"))
            self._save_optimizer_and_scheduler(str(folder))
            self._save_scaler(str(folder))
            self._save_rng_state(str(folder))
        if self.args.should_save:
            prune(Path(self.args.output_dir), self.options.keep_checkpoints)

    def _writing(self, name: str):
        broken = broken_weights(self.task_model)
        if broken:
            raise NonFiniteLossError(
                f"the weights must be finite, got NaN or infinity in {broken} at step {self.state.global_step}; "
                f"lower training.learning_rate (now {self.options.learning_rate:g}). They are not saved, the last good "
                "checkpoint is kept"
            )
        self.check_output()
        folder = Path(self.args.output_dir) / name
        return writing_folder(folder, main=self.args.should_save, wait=self.accelerator.wait_for_everyone)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None) -> None:
        load_weights(self.task_model, Path(resume_from_checkpoint))
        self.progress = Progress.load(Path(resume_from_checkpoint))
