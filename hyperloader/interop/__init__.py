"""Checkpoints and classes of other packages."""
