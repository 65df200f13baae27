from hyperloader.training.folders import checkpoints, prune


def test_only_complete_checkpoints_count_in_the_order_of_their_steps(tmp_path):
    for name in ("checkpoint-10", "checkpoint-9", "checkpoint-11.tmp", "checkpoint-x", "best"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]
    prune(tmp_path, 1)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-10"]
