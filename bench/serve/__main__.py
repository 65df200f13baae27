"""python -m bench serve RUN_FOLDER [--seconds 15] [--soak 600] [--output FOLDER] [--report]

Loads a run and answers mixed test sentences of its tasks without a server and, in turn, by a server with mixed batches
and by one with one task a batch, for several numbers of clients that wait for their answers; then latencies at several
rates, open loop; memory over a long time at 80 %; and a load under which versions are reloaded and the process is
killed. Every answer is checked.
Client and server share the machine. Writes serve.json and serve.png, and the table in docs/serving.md.
"""

import argparse
import asyncio
import json
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from bench import command, machine, results
from bench.serve import offline, report
from bench.serve.client import Sent, closed_loop, open_loop
from bench.serve.process import ServerProcess
from hyperloader import Tagger

SHARES = (0.2, 0.4, 0.6, 0.8, 0.9, 1.0)  # of the most that the server answers


def main(words: list[str] | None = None) -> int:
    """Measure, or make the report of what was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench serve", description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, help="output folder of a training on several tasks")
    parser.add_argument("--seconds", type=float, default=15, help="of each measurement")
    parser.add_argument("--soak", type=float, default=600, help="seconds at 80 %%; 0 leaves it out")
    parser.add_argument("--inputs", type=int, default=8, help="sentences of a request")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 32, 128], help="that send without a pause")
    parser.add_argument("--rounds", type=int, default=3, help="of these, whose medians count")
    parser.add_argument("--questions", type=int, default=4000)
    parser.add_argument("--predict", type=int, default=10_000, help="sentences of the large file")
    parser.add_argument("--output", type=Path, default=results.ROOT / machine.slug(torch.device("cpu")))
    parser.add_argument("--document", type=Path, default=report.DOCUMENT, help="with the marks; docs/serving.md")
    parser.add_argument("--only-soak", action="store_true", help="measure it again, at the rate of the last time")
    parser.add_argument("--report", action="store_true", help="measure nothing, write figure and table")
    given = parser.parse_args(words)
    path = given.output / "serve.json"
    if not given.report:
        if given.run is None:
            raise results.UsageError("RUN_FOLDER must be given, such as that of recipes/serve-eight-tasks.yaml")
        results.writable(given.output)
        found = _soak_again(given, path) if given.only_soak else _measure(given)
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    report.write(path, given.document)
    return 0


def _measure(given: argparse.Namespace) -> dict:
    tagger = Tagger.from_pretrained(given.run)
    asked = offline.questions(tagger.run, given.questions)
    _, answers = offline.mixed(tagger, asked)
    found = {
        "versions": machine.versions(), "hardware": machine.hardware(torch.device("cpu")), "commit": machine.commit(),
        "threads": torch.get_num_threads(), "tasks": tagger.tasks, "inputs": given.inputs,
        "predict": offline.predict(given.run, given.predict, 2),
    }  # fmt: skip
    print(found["predict"], flush=True)
    load = Load(given, *offline.bodies(asked, given.inputs), answers)
    servers = {"mixed": load.server(), "one_task": load.server("--one-task-batches")}
    rounds = [_round(tagger, asked, load, servers) for _ in range(given.rounds)]
    del tagger
    found["offline_per_s"] = statistics.median(one["offline"] for one in rounds)
    goal = statistics.median(one["mixed"][-1]["sentences_per_s"] for one in rounds)
    for name, server in servers.items():
        found[name] = {"clients": [_median(one[name][place] for one in rounds) for place in range(len(given.clients))]}
        found[name]["rates"] = [load.at(server, share * goal, given.seconds) for share in SHARES]
        print(f"{name}: {found[name]}", flush=True)
    servers["one_task"].stop()
    if given.soak:
        found["soak"] = load.at(servers["mixed"], 0.8 * goal, given.soak, memory=True)
    servers["mixed"].stop()
    found["kill_and_reload"] = load.killed_and_reloaded(0.5 * goal)
    return found


def _soak_again(given: argparse.Namespace, path: Path) -> dict:
    """What was measured, with another soak."""
    found = json.loads(path.read_text(encoding="utf-8"))
    tagger = Tagger.from_pretrained(given.run)
    asked = offline.questions(tagger.run, given.questions)
    load = Load(given, *offline.bodies(asked, given.inputs), offline.mixed(tagger, asked)[1])
    del tagger
    server = load.server()
    soak = load.at(server, found["soak"]["offered_per_s"], given.soak, memory=True)
    server.stop()
    return found | {"soak": soak | {"commit": machine.commit(), "versions": machine.versions()}}


def _round(tagger: Tagger, asked: list[dict], load: "Load", servers: dict[str, ServerProcess]) -> dict:
    """Sentences a second without a server, and what each server answers each number of clients, all in turn."""
    found: dict = {"offline": offline.mixed(tagger, asked)[0], **{name: [] for name in servers}}
    for clients in load.given.clients:
        for name, server in servers.items():
            found[name].append(load.most(server, clients))
    print(found, flush=True)
    return found


def _median(summaries: Iterable[dict]) -> dict:
    """Of the numbers of several summaries the medians; of what was lost, refused or wrong the sums."""
    some = list(summaries)
    sums = {key: sum(one[key] for one in some) for key in ("requests", "refused", "lost", "wrong")}
    return {key: statistics.median(one[key] for one in some) for key in some[0]} | sums


class Load:
    """Requests whose answers are known."""

    def __init__(self, given: argparse.Namespace, bodies: list[bytes], parts: list[range], answers: list[dict]) -> None:
        self.given, self.bodies, self.parts, self.answers = given, bodies, parts, answers

    def server(self, *options: str, port: int = 0) -> ServerProcess:
        """A new server, warm."""
        server = ServerProcess(self.given.run, self.given.output / "serve.log", *options, port=port)
        asyncio.run(closed_loop(server.port, self.bodies, 8, 2))
        return server

    def summary(self, sent: list[Sent], seconds: float) -> dict:
        """Throughput, latencies in ms, and what was lost or wrong."""
        done = [one for one in sent if one.status == 200]
        taken = sorted(1000 * one.seconds for one in done) or [float("nan")]
        wrong = sum(offline.wrong(one.answer, [self.answers[n] for n in self.parts[one.body]]) for one in done)
        return {
            "requests": len(sent), "refused": sum(one.status not in (0, 200) for one in sent),
            "lost": sum(one.status == 0 for one in sent), "wrong": wrong,
            "sentences_per_s": len(done) * self.given.inputs / seconds,
            **{f"p{share}_ms": taken[min(len(taken) - 1, len(taken) * share // 100)] for share in (50, 90, 99)},
        }  # fmt: skip

    def most(self, server: ServerProcess, clients: int) -> dict:
        """Clients without a pause."""
        start = time.perf_counter()
        sent = asyncio.run(closed_loop(server.port, self.bodies, clients, self.given.seconds))
        return {"clients": clients, **self.summary(sent, time.perf_counter() - start)}

    def at(self, server: ServerProcess, sentences: float, seconds: float, memory: bool = False) -> dict:
        """Open loop at so many sentences a second."""
        resident: list[int] = []
        start = time.perf_counter()
        sent = asyncio.run(open_loop(
            server.port, self.bodies, sentences / self.given.inputs, seconds,
            each_second=lambda: resident.append(server.memory()),
        ))  # fmt: skip
        found = {"offered_per_s": sentences, **self.summary(sent, time.perf_counter() - start)}
        found["memory_mib"] = [resident[0] >> 20, max(resident) >> 20, resident[-1] >> 20]
        if memory:
            found |= {"seconds": seconds, "memory_each_10_s": [one >> 20 for one in resident[::10]]}
        return found

    def killed_and_reloaded(self, sentences: float) -> dict:
        """Three reloads, an end in order and a kill, each followed by a new process, while clients go on and ask again
        where they got no answer."""
        seconds, servers = max(30.0, self.given.seconds), [self.server()]
        port = servers[0].port

        def disturb() -> None:
            for _ in range(3):
                time.sleep(seconds / 8)
                servers[-1].send(signal.SIGHUP)
            for number in (signal.SIGTERM, signal.SIGKILL):
                time.sleep(seconds / 8)
                servers[-1].stop(number)
                log = self.given.output / "serve.log"
                servers.append(ServerProcess(self.given.run, log, port=port))

        thread = threading.Thread(target=disturb)
        thread.start()
        sent = asyncio.run(open_loop(port, self.bodies, sentences / self.given.inputs, seconds, retry=True))
        thread.join()
        servers[-1].stop()
        return self.summary(sent, seconds) | {"reloads": 3, "drained": 1, "killed": 1}


if __name__ == "__main__":
    sys.exit(command.run(main))
