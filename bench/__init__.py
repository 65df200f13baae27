"""What runs faster, and what learns better: benchmarks and studies, run from a checkout."""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when torch is loaded; its profiler reports every start and stop
