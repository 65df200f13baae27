"""Whether the cost of a training step grows as the formulas of ``bench.scaling`` say."""
