"""cluster.yaml passes Ray's own check, and nobody without the token gets in."""

from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

FILE = Path(__file__).parents[1] / "cluster.yaml"


@pytest.fixture
def cluster():
    return yaml.safe_load(FILE.read_text())


def test_ray_accepts_it(cluster):
    validate_config(prepare_config(cluster))


def test_the_check_can_fail(cluster):
    cluster["available_node_types"]["head"]["min_worker"] = 1
    with pytest.raises(Exception, match="min_worker"):
        validate_config(prepare_config(cluster))


def test_every_node_asks_for_the_token_and_the_file_does_not_hold_it(cluster):
    options = " ".join(cluster["docker"]["run_options"])
    assert "-e RAY_AUTH_MODE=token" in options
    assert "-e RAY_AUTH_TOKEN_PATH=" in options
    assert "RAY_AUTH_TOKEN=" not in FILE.read_text()


def test_the_dashboard_listens_on_loopback(cluster):
    (start,) = [command for command in cluster["head_start_ray_commands"] if "ray start" in command]
    assert "--head" in start
    assert "--dashboard-host=127.0.0.1" in start


def test_the_head_does_no_work_and_workers_come_and_go(cluster):
    nodes = cluster["available_node_types"]
    assert nodes[cluster["head_node_type"]]["resources"]["CPU"] == 0
    workers = {name: node for name, node in nodes.items() if name != cluster["head_node_type"]}
    assert {node["min_workers"] for node in workers.values()} == {0}
    assert sorted("GPU" in node["resources"] for node in workers.values()) == [False, True]
    assert sum(node["max_workers"] for node in workers.values()) <= cluster["max_workers"]
