import os

import pytest
import ray

from robsearch import InputError, cluster


def test_a_local_cluster_is_on_loopback_and_workers_do_not_see_the_drivers_secrets(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hidden")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hidden@host")
    monkeypatch.setenv("ROBSEARCH_STORAGE", "postgresql://me:hidden@host/db")
    monkeypatch.setenv("SOME_API_TOKEN", "hidden")
    monkeypatch.setenv("ROBSEARCH_DATA", "/seen")
    with cluster.connected(None, cpus=1):
        seen = ray.get(ray.remote(lambda: dict(os.environ)).remote())
        nodes = [node["NodeManagerAddress"] for node in ray.nodes()]
    assert nodes == ["127.0.0.1"]
    assert seen["ROBSEARCH_DATA"] == "/seen"
    assert not [name for name, value in seen.items() if "hidden" in value]
    assert os.environ["SOME_API_TOKEN"] == "hidden"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ray://head:10001", "ray job submit"),
        ("127.0.0.1:1", "expected a Ray cluster at --address 127.0.0.1:1, got .*refused"),
        ("nonsense", "expected a Ray cluster at --address nonsense"),
    ],
)
def test_an_address_without_a_cluster_is_refused_at_once(address, said):
    with pytest.raises(InputError, match=said), cluster.connected(address, None):
        pass
