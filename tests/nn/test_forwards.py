"""Forwards and changes in several threads: a change sees no forward, and a forward no change."""

import copy
import pickle
import threading
import time

import pytest

from hyperloader.nn.forwards import Forwards


def started(target):
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def test_a_change_waits_for_forwards_and_later_forwards_wait_for_it():
    forwards, events, leave = Forwards(), [], threading.Event()

    def change():
        with forwards.changing("merge()"):
            events.append("changed")

    def forward():
        with forwards.running():
            events.append("forward")

    with forwards.running():
        changer = started(change)
        while not forwards._changing:
            time.sleep(0.001)
        late = started(forward)
        late.join(0.05)
        with forwards.running():  # a part of the one that is running
            events.append("inner")
        assert events == ["inner"]
        leave.set()
    changer.join(60)
    late.join(60)
    assert events == ["inner", "changed", "forward"]


def test_a_change_inside_a_forward_is_refused():
    forwards = Forwards()
    refused = pytest.raises(RuntimeError, match=r"merge\(\) must be called between two forwards")
    with forwards.running(), refused, forwards.changing("merge()"):
        pass
    with forwards.changing("merge()"), forwards.running():  # its own forward may run
        pass


def test_an_exception_leaves_nothing_behind():
    forwards = Forwards()
    for block in (forwards.running, lambda: forwards.changing("merge()")):
        with pytest.raises(KeyError), block():
            raise KeyError
    with forwards.changing("merge()"):
        pass


def test_a_copy_has_no_forwards():
    forwards = Forwards()
    with forwards.running():
        copies = copy.deepcopy(forwards), pickle.loads(pickle.dumps(forwards))
        with pytest.raises(RuntimeError), forwards.changing("merge()"):
            pytest.fail("a forward of this thread is running")
    changed = []
    for one in copies:
        with one.changing("merge()"):
            changed.append(one)
    assert changed == list(copies)
