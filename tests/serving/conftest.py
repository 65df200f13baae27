"""A small run of every kind of task, with heads that answer everything."""

import pytest


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The output folder of a short training on ``helpers.kinds_run``; its heads are random, so that spans are found."""
    import torch
    from helpers import kinds_run

    from hyperloader.training.run import train
    from hyperloader.training.run_config import RunConfig
    from hyperloader.training.saved_run import load_run

    here = tmp_path_factory.mktemp("serving")
    values = kinds_run.write(here)
    for entry in values["tasks"]:
        entry["path"] = str(here / entry["path"])
    train(RunConfig.from_dict({**values, "output": str(here / "run")}), progress=False)
    model = load_run(here / "run").model
    torch.manual_seed(3)
    for head in model.heads.heads:
        torch.nn.init.normal_(head.weight, 0, 0.5)
        torch.nn.init.zeros_(head.bias)
    model.save_pretrained(here / "run" / "best")
    return here / "run"
