"""What phases know of a cluster's nodes."""

from dataclasses import replace

from anode import NODE
from hypothesis import given
from hypothesis import strategies as st

from vclust_py.nodes import domain_of, in_turns


@given(st.lists(st.sampled_from("abc")))
def test_in_turns_each_host_has_its_first_node_before_any_has_its_second(hosts: list[str]) -> None:
    nodes = [replace(NODE, host=host, position=number) for number, host in enumerate(hosts)]
    found = in_turns(nodes)
    assert sorted(node.position for node in found) == list(range(len(hosts)))
    turns = [sum(other.host == node.host for other in found[:index]) for index, node in enumerate(found)]
    assert turns == sorted(turns)
    for host in set(hosts):
        own = [node.position for node in found if node.host == host]
        assert own == sorted(own)


def test_a_domain_is_called_as_the_node_is_everywhere_but_keeps_its_name() -> None:
    node = replace(NODE, name="n1")
    assert domain_of("demo", node) == "n1.demo"
    assert domain_of("demo", replace(node, domain="demo.n1")) == "demo.n1"
