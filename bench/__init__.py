"""What runs faster, and what learns better: benchmarks and studies, run from a checkout."""
