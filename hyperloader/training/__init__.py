"""Training and use: presets, methods to compare, the trainer, runs and their folders."""
