"""The processes that torchrun or accelerate has started together: which one this is, which one speaks, which have died.

What they have to agree on before, or after, they can talk to each other stands in the store of torchrun's agent.
"""

import functools
import itertools
import logging
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from typing import Any

_SECONDS = 2.0  # that a dead process may take to disappear

_NONE = object()


def process_number() -> int:
    """Which one of the processes this is, from 0 on."""
    return int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    """Whether this is the first of the processes that work together, or the only one."""
    return process_number() == 0


def process_count() -> int:
    """How many processes work together, as torchrun and accelerate tell each of them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join_others() -> None:
    """Begin to talk to the other processes, if there are any; on a GPU each process takes its own."""
    if os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING"):
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"  # which would leave the backbones of all but one empty
    if process_count() == 1:
        return
    import torch
    from accelerate import PartialState

    if (store := _store()) is not None and not torch.distributed.is_initialized():
        # One apart for each start of the processes: in the agent's own they would find addresses of those before.
        torch.distributed.init_process_group(store=store, rank=process_number(), world_size=process_count())
    PartialState(cpu=not torch.accelerator.is_available())


def wait_for_others() -> None:
    """Return when all processes have come here."""
    if process_count() > 1:
        import torch

        torch.distributed.barrier()


def gathered(own: list[Any]) -> list[Any]:
    """One of each process in turn, until none has any left: ``own`` of process 0 first."""
    if process_count() == 1:
        return own
    from accelerate.utils import gather_object

    each = gather_object([own])
    return [one for row in itertools.zip_longest(*each, fillvalue=_NONE) for one in row if one is not _NONE]


def leave_others() -> None:
    """End what ``join_others`` has begun, when there is nothing more to say."""
    distributed = _distributed()
    if distributed is not None and process_count() > 1:
        distributed.destroy_process_group()


@contextmanager
def main_alone_prints() -> Iterator[None]:
    """A block in which every process but the main one says nothing but what is wrong."""
    if is_main_process():
        yield
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logger = logging.getLogger("hyperloader")
    level = logger.level
    with open(os.devnull, "w") as nothing, redirect_stdout(nothing), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def announce() -> None:
    """Tell the others where this process runs, for ``died``."""
    store = _store()
    if store is not None:
        store.set(f"process/{process_number()}", f"{socket.gethostname()} {os.getpid()}")


def speaks_first(of: str = "") -> bool:
    """Whether none of the processes has asked this before: of an error, or of something else, that all have one alone
    speaks. Without torchrun, whose processes cannot know, every one does."""
    store = _store()
    return store is None or store.add(f"spoken/{of}", 1) == 1


def died() -> list[int]:
    """The processes on this machine that have ended without a word, as far as torchrun's processes know."""
    store = _store()
    if store is None or _distributed() is None:
        return []
    until = time.monotonic() + _SECONDS
    while not (found := [number for number in range(process_count()) if _is_gone(store, number)]):
        if time.monotonic() > until:
            break
        time.sleep(0.05)
    return found


def number_among_others() -> int | None:
    """``process_number`` where this process talks to others, else None."""
    return None if process_count() == 1 or _distributed() is None else process_number()


def mark_begun(what: str) -> None:
    """Remember ``what`` as long as torchrun runs, which starts all processes anew when one fails."""
    store = _store(again=True)
    if store is not None:
        store.set(f"begun/{what}", "")


def has_begun(what: str) -> bool:
    """Whether ``what`` was marked, by processes that torchrun has started anew since."""
    store = _store(again=True) if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0" else None
    return store is not None and store.check([f"begun/{what}"])


def _distributed() -> Any:
    """``torch.distributed`` where this process talks to others, else None."""
    found: Any = getattr(sys.modules.get("torch"), "distributed", None)
    return found if found is not None and found.is_available() and found.is_initialized() else None


def _is_gone(store: Any, number: int) -> bool:
    key = f"process/{number}"
    if number == process_number() or not store.check([key]):
        return False
    host, process = store.get(key).decode().split()
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    return False


@functools.cache
def _store(again: bool = False) -> Any:
    """The store of torchrun's agent, None without one; ``again``: the same after torchrun has started anew."""
    if process_count() == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    from torch.distributed import PrefixStore, TCPStore

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=10))
    attempt = "" if again else os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"hyperloader/{attempt}", store)
