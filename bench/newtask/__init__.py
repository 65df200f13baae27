"""A new task for a trained model: F1 over the number of examples, against adapters of its own."""
