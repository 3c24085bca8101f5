"""Hosts under QEMU's emulation, for tests: `python tests/testbed KIND`, or these modules from pytest.

In the order of use: `places` (names and numbers), `kinds` (in what hosts differ), `image` (what a host boots),
`initramfs` (how it comes to know who it is), `underlay` (the hosts' network), `host` (one host: start, stop, ssh),
`inventory`, `bed` (all hosts of a kind), `cli`.
"""
