"""Hosts for tests of the control plane: all that a site manager says to its hosts, and no machines behind it.

hosts       real libvirtds on loopback, one a host, that serve libvirt's test driver over TLS
translate   `libvirt.open` that leads the product's drivers there, and what the test driver lacks
playbook    `ansible-playbook` with it: run as a program
"""
