"""Every operator test runs once with every backend of this installation."""

import pytest

from hyperloader.ops import BACKENDS, use_backend, why_missing


@pytest.fixture(params=[name for name in BACKENDS if name != "auto"])
def backend(request):
    reason = why_missing(request.param)
    if reason is not None:
        pytest.skip(reason)
    with use_backend(request.param):
        yield request.param
