"""The options of a training as transformers' ``TrainingArguments``."""

from pathlib import Path

import torch
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations, is_tensorboard_available

from hyperloader.training.presets import TRACKERS, TrainingOptions


def tracker_of(report_to: str) -> str | None:
    """The one of ``TRACKERS`` that logs go to, None for none; raises ``ImportError`` for one that is not installed."""
    if report_to == "none" or (report_to == "auto" and not is_tensorboard_available()):
        return None
    tracker = "tensorboard" if report_to == "auto" else report_to
    installed = get_available_reporting_integrations()
    if not (is_tensorboard_available() if tracker == "tensorboard" else tracker in installed):
        package = TRACKERS[tracker]
        raise ImportError(f"report_to: {tracker} needs {package}, which is not installed; run: pip install {package}")
    return tracker


def training_arguments(
    options: TrainingOptions, output: Path, seed: int, progress: bool, all_used: bool = False
) -> TrainingArguments:
    """``options`` as transformers' Trainer takes them; checkpoints go to ``output``.

    ``all_used``: every step trains all that is trained, so that several processes need not look for what is left out.
    """
    return TrainingArguments(
        output_dir=str(output),
        run_name=output.resolve().name,
        max_steps=options.steps,
        per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=options.gradient_accumulation,
        learning_rate=options.learning_rate,
        warmup_steps=options.warmup_steps,
        lr_scheduler_type="constant_with_warmup" if options.schedule == "constant" else options.schedule,
        max_grad_norm=options.max_grad_norm,
        bf16=options.bf16,
        fp16=options.fp16,
        use_cpu=not torch.accelerator.is_available(),  # without this, Trainer refuses bf16 on a CPU
        seed=seed,
        logging_steps=options.log_steps,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if options.select == "best" else "no",
        eval_steps=options.eval_steps,
        save_strategy="steps",
        save_steps=options.save_steps,
        disable_tqdm=not progress,
        report_to="none",
        ignore_data_skip=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False if all_used else None,
        label_names=["labels"],
    )
