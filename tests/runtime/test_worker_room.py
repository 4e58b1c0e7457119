"""How many workers start, on clusters that lose nodes: a fake one, whose clock stands still unless something waits."""

import pytest

from xmrank.runtime import worker_room
from xmrank.runtime.errors import XmrankError
from xmrank.runtime.worker_room import WorkerRoom, count_workers


@pytest.mark.parametrize(
    ("available", "tasks", "group_size", "expected"),
    [
        (8, None, 1, 8),
        (8, 3, 1, 3),  # no more processes than tasks
        (8, 3, 2, 6),  # three groups of two
        (5, 9, 2, 4),  # whole groups only
        (1, 9, 2, 2),  # at least one group, even where fewer are available
        (4, 0, 1, 1),
    ],
)
def test_workers_come_in_whole_groups_and_no_more_than_have_a_task(available, tasks, group_size, expected):
    assert count_workers(available, tasks, group_size) == expected


class FakeCluster:
    """Nodes that are there from and until a second."""

    def __init__(self):
        self.nodes, self.now, self.used = [], 0.0, 0.0

    def add(self, cpus, since=0.0, until=float("inf"), **others):
        self.nodes.append(({"CPU": float(cpus), **others}, since, until))

    def list_nodes(self):
        return [
            {"NodeID": str(number), "Alive": since <= self.now < until, "Resources": has}
            for number, (has, since, until) in enumerate(self.nodes)
        ]

    def sum_resources(self):
        totals = {}
        for node in self.list_nodes():
            for kind, count in node["Resources"].items() if node["Alive"] else ():
                totals[kind] = totals.get(kind, 0.0) + count
        return totals

    def holds(self, bundle, count):
        """Whether so many bundles fit; of the first node, ``used`` cores are taken by others."""
        nodes = self.list_nodes()
        nodes[0] = (
            {**nodes[0], "Resources": {"CPU": nodes[0]["Resources"]["CPU"] - self.used}} if self.used else nodes[0]
        )
        alive = [node["Resources"] for node in nodes if node["Alive"]]
        # As Ray does: in ten-thousandths.
        return count <= sum(
            min(round(1e4 * node.get(kind, 0)) // round(1e4 * share) for kind, share in bundle.items())
            for node in alive
        )

    def reserve(self, bundles):
        """Stands for a placement group, whose ``wait`` lets time pass."""

        def wait(seconds):
            end = self.now + seconds
            while not self.holds(bundles[0], len(bundles)) and self.now < end:
                self.now += 0.5
            return self.holds(bundles[0], len(bundles))

        return type("Group", (), {"wait": staticmethod(wait)})


@pytest.fixture
def cluster(monkeypatch):
    made = FakeCluster()
    monkeypatch.setattr(worker_room.ray, "nodes", made.list_nodes)
    monkeypatch.setattr("xmrank.runtime.cluster.ray.cluster_resources", made.sum_resources)
    monkeypatch.setattr(worker_room, "placement_group", made.reserve)
    monkeypatch.setattr(worker_room, "remove_placement_group", lambda group: None)
    monkeypatch.setattr(worker_room.time, "monotonic", lambda: made.now)
    return made


def open_room(requested=0, *, tasks=None, group_size=1, timeout=60.0):
    return WorkerRoom("train", requested, tasks, group_size, timeout)


def test_a_whole_cluster_is_not_waited_for(cluster, capsys):
    cluster.add(2)
    cluster.add(2)
    room = open_room()
    # 4 cores, of which half a core is left to other processes: 3.5 / 4.
    assert (room.find_count(), room.resources) == (4, {"CPU": 0.875})
    assert open_room(tasks=3).find_count() == 3
    assert (cluster.now, capsys.readouterr().err) == (0.0, "")


def test_without_a_number_a_lost_node_is_not_waited_for_and_a_new_one_is_used(cluster, capsys):
    cluster.add(2)
    cluster.add(2, until=5)
    cluster.add(1, since=100)
    room = open_room()
    assert room.find_count() == 4
    cluster.now = 10.0
    assert (room.find_count(), room.resources) == (2, {"CPU": 0.875})
    assert (cluster.now, capsys.readouterr().err) == (10.0, "")
    cluster.now = 100.0
    assert room.find_count() == 3


def test_nodes_that_are_lost_are_counted_each_once(cluster):
    cluster.add(2)
    cluster.add(2, until=5)
    cluster.add(1, since=5, until=10)
    room = open_room()
    room.find_count()
    assert room.count_lost_nodes() == 0
    cluster.now = 6.0
    room.find_count()
    assert room.count_lost_nodes() == 1
    cluster.now = 11.0
    assert room.count_lost_nodes() == room.count_lost_nodes() == 2


def test_a_loss_that_the_cluster_notices_late_is_counted_then(cluster, capsys):
    cluster.add(1)
    cluster.add(1)
    room = open_room()
    cluster.used = 1.0  # the node does not answer, but counts
    cluster.nodes[0] = (cluster.nodes[0][0], 0.0, 25.0)
    assert room.find_count() == 1
    assert capsys.readouterr().err.splitlines() == [
        "train: waiting up to 60 s for 2 workers, the cluster has 2 CPUs",
        "train: going on with 1 worker instead of 2, the cluster has 1 CPU",
    ]
    assert 25 <= cluster.now <= 40


def test_the_number_of_a_user_is_waited_for_and_then_reduced(cluster, capsys):
    cluster.add(1)
    cluster.add(1, until=5)
    room = open_room(2)
    assert room.find_count() == 2
    cluster.now = 10.0
    assert room.find_count() == 1
    assert 70 <= cluster.now <= 85  # ten seconds without a word, then --worker-timeout
    assert capsys.readouterr().err.splitlines() == [
        "train: waiting up to 60 s for 2 workers, the cluster has 1 CPU",
        "train: going on with 1 worker instead of 2, the cluster has 1 CPU",
    ]
    # The number is now what is wanted: another loss does not wait for the first one again.
    before = cluster.now
    assert (room.find_count(), cluster.now) == (1, before)


def test_a_node_that_comes_back_is_used(cluster, capsys):
    cluster.add(1)
    cluster.add(1, until=5)
    cluster.add(1, since=40)
    room = open_room(2)
    cluster.now = 10.0
    assert room.find_count() == 2 and 40 <= cluster.now < 50
    assert "train: going on with 2 workers, the cluster has 2 CPUs\n" in capsys.readouterr().err


def test_gpus_are_not_replaced_by_cores(cluster):
    cluster.add(8, GPU=2.0)
    cluster.add(8, until=5, GPU=2.0)
    cluster.add(8)
    room = open_room()
    assert (room.find_count(), room.resources) == (4, {"CPU": 1.0, "GPU": 1})
    cluster.now = 10.0
    assert (room.find_count(), room.resources) == (2, {"CPU": 1.0, "GPU": 1})


def test_whole_groups_are_kept_and_the_last_one_shares_what_is_left(cluster):
    cluster.add(3)
    cluster.add(3, until=5)
    room = open_room(group_size=2)
    assert room.find_count() == 6
    cluster.now = 10.0
    assert (room.find_count(), cluster.now) == (2, 10.0)
    cluster.nodes[0] = ({"CPU": 1.0}, 0.0, float("inf"))
    # One core for two: a quarter each, and half a core is left to other processes.
    assert (room.find_count(), room.resources) == (2, {"CPU": 0.25})


@pytest.mark.parametrize(
    ("cpus", "requested", "share"),
    [
        ((1, 1, 1), 4, 0.5),  # an equal part is 2.5 / 4 = 0.625, of which a node holds one only
        ((1, 2), 4, 0.625),  # 2.5 / 4: one and three
        ((1, 2), 5, 0.5),  # 2.5 / 5: two and four
        ((1, 1, 1, 1), 5, 0.5),  # 3.5 / 5 = 0.7
        ((0, 2, 1), 5, 0.5),  # a head without CPUs
        ((2,), 20, 0.075),  # 1.5 / 20
        ((2, 3), 11, 0.409),  # 4.5 / 11: four and seven
        ((1, 1, 1), 7, 0.3333),  # 2.5 / 7 = 0.3571: two each
    ],
)
def test_more_workers_than_cores_fit_on_nodes_of_any_size(cluster, capsys, cpus, requested, share):
    for count in cpus:
        cluster.add(count)
    room = open_room(requested)
    assert (room.find_count(), room.resources) == (requested, {"CPU": share})
    assert (cluster.now, capsys.readouterr().err) == (0.0, "")


def test_each_gpu_gets_a_worker_where_its_node_has_few_cores(cluster):
    cluster.add(8, GPU=1.0)
    cluster.add(1, GPU=3.0)
    room = open_room()
    # A core each, of 9 for 4, would leave two GPUs of the second node idle.
    assert (room.find_count(), room.resources) == (4, {"CPU": 0.3333, "GPU": 1})


def test_others_may_use_a_part_of_the_cluster(cluster):
    cluster.add(4)
    room = open_room(timeout=5.0)
    cluster.used = 2.0
    assert room.find_count() == 2


def test_a_cluster_without_room_is_told_in_one_line(cluster):
    cluster.add(1, until=5)
    room = open_room()
    cluster.now = 10.0
    with pytest.raises(XmrankError) as caught:
        room.find_count()
    assert str(caught.value) == (
        "no room for 1 worker (--worker-timeout): the cluster has 0 CPUs; the same command continues"
    )
    assert cluster.now >= 10 + 60
