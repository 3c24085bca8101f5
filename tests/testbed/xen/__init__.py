"""Real Xen hosts under QEMU's emulation, for tests: `python tests/testbed/xen`, or these modules from pytest.

In the order of use: `places` (names and numbers), `image` (what a host boots), `initramfs` (how it comes to know who
it is), `underlay` (the hosts' network), `host` (one host: start, stop, ssh), `inventory`, `bed` (all hosts), `cli`.
"""
