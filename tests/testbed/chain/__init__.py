"""Hosts for the chain as network namespaces: `python tests/testbed chain`, or these modules from pytest and benchmarks.

In the order of use: `bed` (namespaces, bridge, shaped links), `host` (one host: its processes and what may go wrong
with it), `keys` (certificates of a site), `hops` (the chain's hop services on the hosts), `head` (the process that
sends, in the head's namespace), `cli`.
"""
