"""What hosts have left: never more than there is, however old the look at them is."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from test_placement import a_capacity, a_request

from vclust_py.free_capacity import OVERHEAD, free_capacity, unfit
from vclust_py.hypervisor import Capacity, Host
from vclust_py.site.clusters import Node

MB = 10**6
OWN = OVERHEAD["kvm"]


def a_node(number: int, memory: int, disk: int) -> Node:
    return Node(number, f"n{number}", "a", "", "", "", f"u{number}", 1, memory, disk)


@dataclass
class Machine:
    """A host as it really is: what each node and each foreign domain has taken of what it may take."""

    memory: int = 5000 * MB
    disk: int = 9000 * MB
    programs: int = 1000 * MB
    """Memory of what is no domain."""
    foreign: int = 700 * MB
    foreign_taken: int = 0
    nodes: dict[str, Node] = field(default_factory=dict)
    taken: dict[str, int] = field(default_factory=dict)
    """Memory of the nodes that run."""
    written: dict[str, int] = field(default_factory=dict)

    def survey(self) -> tuple[Capacity, dict[str, int], frozenset[str]]:
        resident = self.taken | {"foreign": self.foreign_taken}
        running = {uuid: (1, self.nodes[uuid].memory) for uuid in self.taken} | {"foreign": (2, self.foreign)}
        capacity = a_capacity(
            cpus=2,
            memory=self.memory,
            memory_free=self.memory - self.programs - sum(resident.values()),
            disk_free=self.disk - sum(self.written.values()),
            resident=resident,
            sizes=running,
        )
        return capacity, dict(self.written), frozenset({"foreign"})

    def may_take(self) -> tuple[int, int, int]:
        """Virtual CPUs, memory and disk when all that is there uses all it may."""
        nodes = self.nodes.values()
        memory = sum(node.memory + OWN for node in nodes) + self.foreign + self.programs
        return len(nodes) + 2, memory, sum(node.disk for node in nodes)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("survey")),
        # By one of the surveys that were made so far.
        st.tuples(st.just("place"), st.integers(0, 9), st.integers(64, 2000), st.integers(100, 4000)),
        st.tuples(st.just("use"), st.integers(0, 9), st.floats(0, 1), st.floats(0, 1)),
        st.tuples(st.just("foreign"), st.floats(0, 1)),
        st.tuples(st.just("destroy"), st.integers(0, 9)),
    ),
    max_size=30,
)


@given(STEPS)
def test_no_host_is_overbooked_by_surveys_of_any_age(steps: Sequence[tuple[Any, ...]]) -> None:
    machine = Machine()
    surveys = [machine.survey()]
    for number, (step, *values) in enumerate(steps):
        nodes = list(machine.nodes)
        if step == "survey":
            surveys.append(machine.survey())
        elif step == "foreign":
            machine.foreign_taken = max(machine.foreign_taken, int(values[0] * machine.foreign))
        elif step == "place":
            which, memory, disk = values
            capacity, written, foreign = surveys[which % len(surveys)]
            placed = [(node, written.get(node.uuid, 0)) for node in machine.nodes.values()]
            free = free_capacity(Host("a"), capacity, placed, 3, foreign=foreign)
            if free.cpus >= 1 and free.memory >= memory * MB + OWN and free.disk >= disk * MB:
                node = a_node(number, memory * MB, disk * MB)
                machine.nodes[node.uuid] = node
        elif nodes:
            uuid = nodes[values[0] % len(nodes)]
            if step == "destroy":
                for kept in (machine.nodes, machine.taken, machine.written):
                    kept.pop(uuid, None)  # type: ignore[attr-defined]
            else:
                node = machine.nodes[uuid]
                machine.taken[uuid] = max(machine.taken.get(uuid, 0), int(values[1] * (node.memory + OWN)))
                machine.written[uuid] = max(machine.written.get(uuid, 0), int(values[2] * node.disk))
        cpus, memory, disk = machine.may_take()
        assert cpus <= 2 * 3
        assert memory <= machine.memory
        assert disk <= machine.disk


def test_all_that_fits_is_given() -> None:
    """5000 MB, of which programs have 1000 and another domain may have 700: one node of the rest, and no byte more."""
    machine = Machine()
    capacity, _, foreign = machine.survey()
    free = free_capacity(Host("a"), capacity, [], 3, foreign=foreign)
    assert (free.cpus, free.memory, free.disk, free.busy) == (4, 3300 * MB, 9000 * MB, 2)
    node = a_node(0, 1000 * MB, 5000 * MB)
    machine.nodes[node.uuid], machine.taken[node.uuid], machine.written[node.uuid] = node, 400 * MB, 2000 * MB
    capacity, written, foreign = machine.survey()
    free = free_capacity(Host("a"), capacity, [(node, written[node.uuid])], 3, foreign=foreign)
    assert (free.cpus, free.memory, free.disk) == (3, 2300 * MB - OWN, 4000 * MB)
    assert free.nodes(a_request(1, ram="500MB"), 2000 * MB) == 2
    assert unfit(a_request(1), free) is None
