"""cluster.yaml passes Ray's own check, nobody without the token gets in, and spot nodes are replaced if refused."""

import subprocess
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.node_provider_availability_tracker import NodeProviderAvailabilityTracker
from ray.autoscaler._private.resource_demand_scheduler import get_nodes_for
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.node_launch_exception import NodeLaunchException

import xmrank
from xmrank.runtime import spot_fallback

FILE = Path(__file__).parents[1] / "cluster.yaml"


@pytest.fixture
def cluster():
    return yaml.safe_load(FILE.read_text())


def options_of(cluster):
    """Docker's options on the head."""
    return " ".join(cluster["docker"]["run_options"] + cluster["docker"]["head_run_options"])


def commands_of(cluster):
    """Every command that Ray runs on a node."""
    keys = [key for key in cluster if key.endswith("_commands")]
    return [command for key in keys for command in cluster[key]]


def plan(cluster, demands, refused=()):
    """The nodes that Ray's autoscaler would start for these demands, after some types were refused."""
    tracker = NodeProviderAvailabilityTracker(timer=lambda: 0)
    for name in refused:
        tracker.update_node_availability(name, 0, NodeLaunchException("InsufficientInstanceCapacity", "none", None))

    def score(*arguments):
        return spot_fallback.score_node_type(*arguments, node_availability_summary=tracker.summary())

    nodes, left = get_nodes_for(cluster["available_node_types"], {}, "head", 18, demands, score)
    assert left == []
    return dict(nodes)


def test_ray_accepts_it(cluster):
    validate_config(prepare_config(cluster))


def test_the_check_can_fail(cluster):
    cluster["available_node_types"]["head"]["min_worker"] = 1
    with pytest.raises(Exception, match="min_worker"):
        validate_config(prepare_config(cluster))


@pytest.mark.parametrize("command", commands_of(yaml.safe_load(FILE.read_text())), ids=lambda text: text[:20])
def test_a_shell_can_read_every_command(command):
    subprocess.run(["bash", "-n", "-c", command], check=True)


def test_every_node_wants_the_token_and_the_file_does_not_hold_it(cluster):
    options = " ".join(cluster["docker"]["run_options"])
    assert "-e RAY_AUTH_MODE=token" in options
    (path,) = cluster["file_mounts"]
    assert f"-e RAY_AUTH_TOKEN_PATH={path}" in options
    assert "RAY_AUTH_TOKEN=" not in FILE.read_text()


def test_the_dashboard_listens_on_loopback_and_ssh_is_open_to_one_address(cluster):
    (start,) = [command for command in cluster["head_start_ray_commands"] if "ray start" in command]
    assert "--head" in start
    assert "--dashboard-host=127.0.0.1" in start
    (rule,) = cluster["provider"]["security_group"]["IpPermissions"]
    assert (rule["FromPort"], rule["ToPort"]) == (22, 22)
    assert [address["CidrIp"].partition("/")[2] for address in rule["IpRanges"]] == ["32"]


def test_the_head_does_no_work_and_is_on_demand(cluster):
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]


def test_workers_come_and_go_and_spot_types_differ_in_the_market_only(cluster):
    nodes = cluster["available_node_types"]
    for kind in ("gpu", "cpu"):
        spot, fallback = nodes[f"{kind}_spot"], nodes[f"{kind}_on_demand"]
        assert spot["node_config"].pop("InstanceMarketOptions")["MarketType"] == "spot"
        assert spot == fallback
        assert (spot["min_workers"], "GPU" in spot["resources"]) == (0, kind == "gpu")
    assert len(cluster["provider"]["availability_zone"].split(",")) == 3


def test_spot_nodes_are_started_first_and_others_once_spot_is_refused(cluster):
    gpus = [{"CPU": 1, "GPU": 1}] * 2
    assert plan(cluster, gpus) == {"gpu_spot": 2}
    assert plan(cluster, gpus, refused=["gpu_spot"]) == {"gpu_on_demand": 2}
    assert plan(cluster, [{"CPU": 16}]) == {"cpu_spot": 1}
    assert plan(cluster, [{"CPU": 16}], refused=["cpu_spot"]) == {"cpu_on_demand": 1}
    # Both refused: spot is tried again, and a GPU is not started for want of CPUs.
    assert plan(cluster, [{"CPU": 16}], refused=["cpu_spot", "cpu_on_demand"]) == {"cpu_spot": 1}


def test_spot_comes_first_whatever_the_types_are_called(cluster):
    """Ray takes the last name in alphabetical order among equal scores."""
    nodes = cluster["available_node_types"]
    nodes["z_on_demand"] = nodes.pop("gpu_on_demand")
    assert plan(cluster, [{"GPU": 1}]) == {"gpu_spot": 1}


def test_the_head_names_the_scorer(cluster):
    name = f"{spot_fallback.__name__}.{spot_fallback.score_node_type.__name__}"
    assert f"-e RAY_AUTOSCALER_UTILIZATION_SCORER={name}" in options_of(cluster)


def test_the_image_is_pinned_to_this_version(cluster):
    assert cluster["docker"]["image"].endswith(f"/xmrank:{xmrank.__version__}-gpu")


def test_the_cache_is_on_the_instances_own_disk_and_no_file_system_is_shared(cluster):
    options = options_of(cluster)
    assert "-v /mnt/cache:/cache" in options
    assert "-e XMRANK_CACHE=/cache" in options
    assert "NVMe_Instance_Storage" in cluster["initialization_commands"][0]
    assert "nfs" not in FILE.read_text()
