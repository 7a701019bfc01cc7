"""A Ray cluster of two workers on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psutil
import pytest

_MARK = "CLUSTER_OF_TEST_PROCESS"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    import ray
    from ray.cluster_utils import Cluster

    os.environ[_MARK] = str(os.getpid())
    try:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
    except Exception as error:  # whatever a sandbox forbids Ray to do
        pytest.skip(f"no Ray cluster can be started here: {error}")
    finally:
        del os.environ[_MARK]
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def actors() -> list[psutil.Process]:
    """The processes of this cluster that hold a model."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if "MapWorker" in "".join(process.cmdline()) and process.environ().get(_MARK) == str(os.getpid()):
                found.append(process)
    return found
