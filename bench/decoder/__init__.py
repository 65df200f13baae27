"""A decoder of several tasks: one HyperLoader model, one LoRA that all share, one LoRA a task."""
