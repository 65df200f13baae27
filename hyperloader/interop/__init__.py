"""What other code wrote or expects: its checkpoints, its classes."""
