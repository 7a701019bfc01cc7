"""The same server on Ray Serve; slow to start, so that one test does it all."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("ray.serve", reason="needs ray[serve]", exc_type=ImportError)

from convbert import pipeline
from convbert.serving.run import bind
from servers import Server

MASKED = "the cat [MASK] on the mat ."
CLIENTS = 8


def replicas() -> list[int]:
    """The processes that hold the model."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"ServeReplica:default:convbert" in each.read_bytes():
                found.append(int(each.parent.name))
        except OSError:  # it has just ended
            continue
    return found


def wait_for_replicas(count: int, without: int = 0) -> list[int]:
    while len(found := replicas()) != count or without in found:
        time.sleep(0.2)
    return found


@pytest.mark.skipif(not os.environ.get("CONVBERT_RAY"), reason="a cluster takes a minute (CONVBERT_RAY=1)")
@pytest.mark.timeout(150)
def test_a_cluster_answers_as_the_pipeline_and_replaces_a_killed_replica(folders, tmp_path):
    """Two machines, as far as Ray knows, and the program of the documentation."""
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    page = (Path(__file__).parents[2] / "docs/serving.md").read_text(encoding="utf-8")
    program = re.search(r"```py\n(from convbert.serving import ray_app\n.*?)```", page, re.S)[1]
    program = program.replace("/shared/reviews", str(folders["words"]))
    settings = "min_replicas=2, max_replicas=2, cpus=1, precision='fp32'"
    (tmp_path / "app.py").write_text(program.replace("max_replicas=8, cpus=4", settings), encoding="utf-8")
    expected = [word["token"] for word in pipeline("fill-mask", folders["words"], precision="fp32")(MASKED)]

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    running = None
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        ray.init(cluster.address)
        with bind("127.0.0.1", 0) as bound:
            port = bound.getsockname()[1]
        serve.start(http_options={"port": port})
        words = ["-m", "ray.serve.scripts", "run", "--address", cluster.address, "app:app"]
        running = subprocess.Popen([sys.executable, *words], cwd=tmp_path)
        server = Server(f"http://127.0.0.1:{port}", None)
        statuses: Counter[int] = Counter()

        def ask(_: int) -> None:
            reply = server.send("/fill-mask", {"inputs": [MASKED] * 3})
            statuses[reply.status] += 1
            if reply.status == 200:
                assert [[word["token"] for word in each] for each in reply.content] == [expected] * 3

        first, _ = wait_for_replicas(2)
        while "reviews" not in str(
            server.send("/info").content
        ):  # until both are ready, and the route is known
            assert running.poll() is None
            time.sleep(0.2)
        with ThreadPoolExecutor(CLIENTS) as clients:
            asked = clients.map(ask, range(400))
            while sum(statuses.values()) < 100:
                time.sleep(0.01)
            os.kill(first, signal.SIGKILL)
            list(asked)
            assert statuses[200] + statuses[500] + statuses[503] == 400
            assert statuses[200] >= 400 - 2 * CLIENTS  # what it had, and what was on its way to it
            wait_for_replicas(2, without=first)
            statuses.clear()
            list(clients.map(ask, range(40)))
            assert statuses == {200: 40}
    finally:
        if running is not None:
            running.send_signal(signal.SIGINT)
            running.wait(60)
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()
