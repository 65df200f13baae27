"""The study: several methods on the same tasks, with the same data, steps and scoring, one JSON a run."""
