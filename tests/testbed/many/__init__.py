"""Many hosts on one machine as namespaces: `python tests/testbed many`, or these modules from pytest.

In the order of use: `image` (their root), `fabric` (their network), `host` (one host: start, stop, ssh, cable),
`init` (what a host's first process does), `bed` (all hosts), `cli`.
"""
