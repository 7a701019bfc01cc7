"""Bad requests get a status and one sentence, and harm nobody else."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from contextlib import closing

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from servers import Batcher, in_thread, serving

LONG = "the cat " * 50
MASKED = "the cat [MASK] ."


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"the cat", 422, "JSON"),
        (b"\xff\xff", 400, "body"),
        (b"[" * 100_000, 400, "body"),
        (b"[]", 422, "body"),
        ({}, 422, "inputs"),
        ({"inputs": 3}, 422, "inputs"),
        ({"inputs": None}, 422, "inputs"),
        ({"inputs": []}, 422, "inputs"),
        ({"inputs": [MASKED, 3]}, 422, "inputs"),
        ({"inputs": ""}, 422, "empty"),
        ({"inputs": "the cat"}, 422, "[MASK]"),
        ({"inputs": f"{LONG} [MASK]", "parameters": {"truncation": True}}, 422, "cut"),
        ({"inputs": MASKED, "inptus": 1}, 422, "inptus"),
        ({"inputs": MASKED, "parameters": {"topk": 1}}, 422, "topk"),
        ({"inputs": MASKED, "parameters": {"top_k": "1"}}, 422, "top_k"),
        ({"inputs": MASKED, "parameters": {"top_k": 1000}}, 422, "top_k"),
        (b'{"inputs": "\\ud800 [MASK]"}', 422, "inputs"),
        (b'{"inputs": "[MASK]", "\\ud800": 1}', 422, ""),
        ({"inputs": MASKED, "model": "gpt"}, 404, "gpt"),
        ({"inputs": MASKED, "model": "../../etc"}, 404, "etc"),
        ({"inputs": MASKED, "model": "names"}, 404, "names"),
        ({"inputs": "x" * 200_000}, 422, "inputs"),
        ({"inputs": "x" * (10 * 2**20)}, 413, "large"),
        ({"inputs": [MASKED] * 10_000}, 413, "10,000"),
    ],
)
def test_bad_requests(server, body, status, words):
    reply = server.send("/fill-mask", body)
    assert reply.status == status
    assert words in reply.content["error"]
    assert len(reply.content["error"]) < 300
    assert server.send("/fill-mask", {"inputs": MASKED}).status == 200


def test_a_null_byte_is_no_word(server):
    with_null, without = (
        server.send("/fill-mask", {"inputs": text}).content for text in ("the\0 [MASK]", "the [MASK]")
    )
    assert with_null == without


def test_an_error_has_its_place_in_a_list(server):
    first, second, third = server.send("/fill-mask", {"inputs": [MASKED, "the cat", MASKED]}).content
    assert first == third
    assert "[MASK]" in second["error"]


def test_wrong_paths_and_methods(server):
    assert server.send("/nothing").status == 404
    assert server.send("/embed").status == 405
    assert server.send("/v1/embeddings", {"input": 1}).content["error"]["type"] == "invalid_request_error"


def test_the_key(models):
    with serving(Batcher(models, make_pool=in_thread), api_key="secret") as server:
        for headers in ({}, {"Authorization": "Bearer secre"}, {"Authorization": "secret"}):
            reply = server.send("/fill-mask", {"inputs": MASKED}, headers)
            assert (reply.status, "key" in reply.content["error"]) == (401, True)
        right = {"Authorization": "Bearer secret"}
        assert server.send("/fill-mask", {"inputs": MASKED}, right).status == 200
        assert {server.send(path).status for path in ("/info", "/metrics", "/v1/models")} == {401}
        assert server.send("/health").status == server.send("/").status == 200


class Slow(ThreadPoolExecutor):
    """A worker that takes its time for each portion, and remembers how many texts it had."""

    def __init__(self, seconds: float) -> None:
        super().__init__(1)
        self.seconds, self.portions = seconds, []

    def submit(self, function, *args):
        if len(args) == 1:  # loading
            return super().submit(function, *args)
        self.portions.append(len(args[1]))

        def slowly():
            time.sleep(self.seconds)
            return function(*args)

        return super().submit(slowly)


def test_what_arrives_meanwhile_is_answered_together(models):
    pool = Slow(0.3)
    with serving(Batcher(models, make_pool=lambda: pool)) as server, ThreadPoolExecutor(9) as clients:
        replies = [clients.submit(server.send, "/fill-mask", {"inputs": MASKED})]
        while not pool.portions:
            time.sleep(0.01)
        replies += [clients.submit(server.send, "/fill-mask", {"inputs": MASKED}) for _ in range(8)]
        assert {each.result().status for each in replies} == {200}
    assert pool.portions == [1, 8]


def test_a_full_queue_sheds_and_the_rest_is_answered(models):
    with (
        serving(Batcher(models, queue=8, make_pool=lambda: Slow(0.2))) as server,
        ThreadPoolExecutor(40) as clients,
    ):
        replies = list(clients.map(lambda _: server.send("/fill-mask", {"inputs": MASKED}), range(40)))
    by_status = {status: [reply for reply in replies if reply.status == status] for status in (200, 429)}
    assert len(by_status[200]) + len(by_status[429]) == 40
    assert len(by_status[200]) >= 8
    assert all(int(reply.headers["Retry-After"]) >= 1 for reply in by_status[429])
    assert len({tuple(word["token"] for word in reply.content) for reply in by_status[200]}) == 1


def test_what_would_come_too_late_is_not_let_in(models):
    batcher = Batcher(models, timeout=1.0, make_pool=lambda: Slow(0.1))
    with serving(batcher) as server, ThreadPoolExecutor(64) as clients:
        long = "the cat and the dog ran to the house [MASK] " * 3  # a portion holds two of them
        server.send("/fill-mask", {"inputs": long})
        replies = list(clients.map(lambda _: server.send("/fill-mask", {"inputs": long}), range(64)))
    assert {reply.status for reply in replies} == {200, 429}


def test_a_deadline(models):
    with serving(Batcher(models, timeout=0.2, make_pool=lambda: Slow(0.6))) as server:
        assert server.send("/fill-mask", {"inputs": MASKED}).status == 504


def test_what_was_not_begun_by_the_deadline_is_shed(models):
    pool = Slow(0.8)
    with (
        serving(Batcher(models, timeout=0.3, make_pool=lambda: pool)) as server,
        ThreadPoolExecutor() as clients,
    ):
        first = clients.submit(server.send, "/fill-mask", {"inputs": MASKED})
        while not pool.portions:
            time.sleep(0.01)
        later = server.send("/fill-mask", {"inputs": MASKED})
        assert (first.result().status, later.status, int(later.headers["Retry-After"]) >= 1) == (
            504,
            429,
            True,
        )


def test_clients_that_leave_or_linger(models):
    """One closes before its answer, one never sends its body: neither costs the others anything."""
    pool = Slow(0.3)
    with serving(Batcher(models, timeout=1.5, make_pool=lambda: pool)) as server:
        address = server.url.removeprefix("http://").split(":")
        head = b"POST /fill-mask HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        body = json.dumps({"inputs": [MASKED] * 50}).encode()
        with closing(socket.create_connection((address[0], int(address[1])))) as lingering:
            lingering.sendall(head % 100 + b"{")
            busy = [
                threading.Thread(target=server.send, args=("/fill-mask", {"inputs": MASKED}))
                for _ in range(3)
            ]
            for each in busy:
                each.start()
            time.sleep(0.1)
            with closing(socket.create_connection((address[0], int(address[1])))) as leaving:
                leaving.sendall(head % len(body) + body)
                time.sleep(0.1)
            assert server.send("/fill-mask", {"inputs": MASKED}).status == 200
            lingering.settimeout(5)
            assert b" 408 " in lingering.recv(100)
        for each in busy:
            each.join()
    assert sum(pool.portions) < 50  # cancelled requests were not computed


def words(reply) -> list[str]:
    return [each["token_str"] for each in reply.content]


class Dying(ThreadPoolExecutor):
    """A worker that dies over its first portion."""

    def submit(self, function, *args):
        if len(args) == 1:  # loading
            return super().submit(function, *args)
        died: Future[None] = Future()
        died.set_exception(BrokenExecutor())
        return died


def test_of_two_workers_one_dies(models):
    pools = iter([Slow(0.05), Dying(1)])
    batcher = Batcher(models, workers=2, make_pool=lambda: next(pools, None) or in_thread())
    with serving(batcher) as server, ThreadPoolExecutor(16) as clients:
        whole = words(server.send("/fill-mask", {"inputs": MASKED}))  # of the first worker

        def ask(_: int) -> int:
            reply = server.send("/fill-mask", {"inputs": MASKED})
            assert reply.status == 503 or words(reply) == whole
            return reply.status

        assert set(clients.map(ask, range(48))) == {200, 503}
        assert set(clients.map(ask, range(48))) == {200}
        assert "convbert_worker_restarts_total 1.0" in server.send("/metrics").content


def test_a_bug_in_one_text_spares_its_batch(models, monkeypatch):
    from convbert.inference.pipelines import FillMask

    preprocess = FillMask.preprocess

    def with_bug(self, inputs, **kwargs):
        if "dog" in inputs:
            raise KeyError("a bug")
        return preprocess(self, inputs, **kwargs)

    monkeypatch.setattr(FillMask, "preprocess", with_bug)
    with serving(Batcher(models, make_pool=in_thread)) as server:
        first, second = server.send("/fill-mask", {"inputs": [MASKED, "a dog [MASK]"]}).content
        assert isinstance(first, list)
        assert "internal" in second["error"]
        assert server.send("/fill-mask", {"inputs": "a dog [MASK]"}).status == 500
