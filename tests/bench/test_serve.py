"""The load on a server: its clock, what counts as lost or wrong, and what is written of it."""

import asyncio
import json
import time

import pytest

from bench.serve import offline, report
from bench.serve.client import closed_loop, open_loop

ANSWER = b"HTTP/1.1 %d OK\r\nContent-Length: 2\r\n\r\nok"


def loaded(answer, load):
    """What ``load(port)`` sends to a server that answers each request by ``answer(number)``, None closing it."""

    async def run():
        count = 0

        async def connected(reader, writer):
            nonlocal count
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
                count += 1
                if (said := await answer(count)) is None:
                    writer.close()
                    return
                writer.write(said)

        def quietly(reader, writer):
            task = asyncio.ensure_future(connected(reader, writer))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())

        async with await asyncio.start_server(quietly, "127.0.0.1", 0) as server:
            return await load(server.sockets[0].getsockname()[1])

    return asyncio.run(run())


async def at_once(number):
    return ANSWER % 200


def test_requests_are_sent_when_they_are_due_however_slow_the_answers_are():
    async def slow(number):
        await asyncio.sleep(0.3)
        return ANSWER % 200

    start = time.perf_counter()
    sent = loaded(slow, lambda port: open_loop(port, [b"{}"], 100, 0.5))
    assert time.perf_counter() - start < 5
    assert 25 < len(sent) < 90
    assert all(one.status == 200 and one.answer == b"ok" and one.seconds >= 0.3 for one in sent)
    dues = [one.due for one in sent]
    assert dues == sorted(dues) and dues[-1] - dues[0] < 0.5


@pytest.mark.parametrize("retry", [False, True])
def test_what_is_not_answered_is_lost_unless_it_is_sent_again(retry):
    async def often(number):
        return None if number % 3 == 0 else ANSWER % (429 if number % 3 == 1 else 200)

    sent = loaded(often, lambda port: open_loop(port, [b"{}"], 50, 0.3, retry=retry))
    assert {one.status for one in sent} == ({200} if retry else {429, 200} | ({0} & {one.status for one in sent}))


def test_clients_without_a_pause_send_the_next_when_the_last_is_answered():
    sent = loaded(at_once, lambda port: closed_loop(port, [b"{}"], 3, 0.2))
    assert len(sent) > 3 and {one.status for one in sent} == {200}


def test_other_tags_labels_and_scores_are_wrong():
    right = {"line": 3, "tags": ["O"], "spans": [{"score": 0.5}], "scores": {"a": 0.2}}

    def wrong(**changed):
        return offline.wrong(json.dumps({"answers": [{**right, **changed}]}).encode(), [right])

    assert wrong() == wrong(line=9) == wrong(spans=[{"score": 0.505}]) == 0
    assert wrong(tags=["B-x"]) == wrong(spans=[]) == wrong(spans=[{"score": 0.52}]) == 1


def test_the_table_and_the_figure(tmp_path):
    row = {"offered_per_s": 80.0, "sentences_per_s": 79.0, "p50_ms": 10.0, "p99_ms": 31.0, "requests": 10, "lost": 0,
           "wrong": 0, "refused": 0, "memory_mib": [700, 702, 701]}  # fmt: skip
    found = {
        "tasks": ["a", "b"], "inputs": 8, "threads": 2, "hardware": {"device": "CPU"}, "offline_per_s": 100.0,
        "mixed": {"clients": [{**row, "clients": 4}, {**row, "clients": 32, "sentences_per_s": 90.0}], "rates": [row]},
        "one_task": {"clients": [{**row, "clients": 4, "sentences_per_s": 40.0}, row], "rates": [row]},
        "soak": {**row, "seconds": 600.0, "memory_each_10_s": list(range(700, 760))},
        "kill_and_reload": {**row, "reloads": 3}, "predict": {"sentences": 9, "words": 99, "different_answers": 0,
        "sentences_per_s": {"before": 10.0, "now": 25.0}},
    }  # fmt: skip
    (tmp_path / "serve.json").write_text(json.dumps(found))
    (tmp_path / "page.md").write_text("<!-- serve: begin -->\n<!-- serve: end -->\n")
    report.write(tmp_path / "serve.json", tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "at most 90 (0.90 of that)" in text and "| 4 | 79 | 40 | 1.98 | 31 ms | 31 ms |" in text
    assert "| 80 | 79 | 10 ms | 31 ms | 79 | 10 ms | 31 ms |" in text
    assert "2.50 times as many" in text and "10 minutes at 80 a second" in text
    assert (
        "memory 700 MiB at the start, 706, 712, 718, 724, 730, 736, 742, 748, 754 after each minute, 701 at the end"
        in text
    )
    assert (tmp_path / "serve.png").stat().st_size > 1000
