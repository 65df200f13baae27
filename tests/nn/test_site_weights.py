"""How weights reach the sites: per thread, for one forward, repeated for beams."""

import copy
import pickle
import threading

import pytest
import torch

from hyperloader.nn.site_weights import ActiveWeights, SiteWeights


def test_weights_hold_inside_the_block_alone():
    active = ActiveWeights()
    outer, inner = SiteWeights({}, None), SiteWeights({}, None)
    with active.use(outer):
        with active.use(inner):
            assert active.require() is inner
        assert active.require() is outer
    with pytest.raises(RuntimeError, match="attached to a HyperLoaderModel"):
        active.require()


def test_weights_are_put_back_after_an_error():
    active = ActiveWeights()
    with pytest.raises(KeyError), active.use(SiteWeights({}, None)):
        raise KeyError
    assert active.current is None


def test_threads_do_not_see_each_others_weights():
    active, seen = ActiveWeights(), []
    with active.use(SiteWeights({}, None)):
        thread = threading.Thread(target=lambda: seen.append(active.current))
        thread.start()
        thread.join()
    assert seen == [None]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_starts_empty(copied):
    active = ActiveWeights()
    with active.use(SiteWeights({}, None)):
        assert copied(active).current is None


def test_beams_repeat_the_group_of_their_sentence():
    weights = SiteWeights({}, torch.tensor([2, 0]))
    assert weights.group_of(2).tolist() == [2, 0]
    assert weights.group_of(6).tolist() == [2, 2, 2, 0, 0, 0]
    with pytest.raises(ValueError, match="task_ids must have one entry per sentence, got 2 for 5 rows"):
        weights.group_of(5)
