"""The same server on Ray Serve; slow to start, so that one test does it all."""

from __future__ import annotations

import json
import os
import urllib.request

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("ray.serve", reason="needs ray[serve]", exc_type=ImportError)

from convbert import pipeline
from convbert.serving import ray_app

MASKED = "the cat [MASK] on the mat ."


@pytest.mark.skipif(
    not os.environ.get("CONVBERT_RAY"), reason="a cluster takes half a minute (CONVBERT_RAY=1)"
)
def test_a_cluster_answers_as_the_pipeline(folders):
    import ray
    from ray import serve

    ray.init(num_cpus=2, include_dashboard=False)
    try:
        serve.run(ray_app(str(folders["words"]), cpus=1, precision="fp32"))
        body = json.dumps({"inputs": [MASKED] * 3}).encode()
        request = urllib.request.Request(
            "http://127.0.0.1:8000/fill-mask", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            found = json.load(response)
    finally:
        serve.shutdown()
        ray.shutdown()
    expected = [word["token"] for word in pipeline("fill-mask", folders["words"], precision="fp32")(MASKED)]
    assert [[word["token"] for word in each] for each in found] == [expected] * 3
