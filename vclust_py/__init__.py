"""vclust: virtual clusters on the fly.  The modules in the order of the flow:

request      a request file (INI or YAML) becomes a frozen `Request`; every key of it is defined once, in request.model
metapackages named bundles of packages, debconf answers and configuration steps
phases       what is done to a cluster, a file each: request, resolve, cache, place, image, distribute, create, install,
             ready, and destroy

lock         the `Lock`: exactly which packages a cluster's nodes hold
resolve      package names become their closure, by real apt
apt          private apt roots: sources, package index, apt's tools away from the machine's own state
cache        learning which sets of packages to keep installed, and which of them a request starts from
placement    which node runs on which host; estimate: how long a create may take
image        base image, package store, request layers, package bundles, installer
chain        files to many hosts in nearly the time of one; the package vclust_hop is what runs on each of them
seed         the small disk that carries a node's identity; addresses has its hardware address
guest        what nodes share: the cluster's disk and its ssh authority; what they report; the proof that they work
network      one isolated segment and one router namespace a cluster; network_hook a machine's end of it, which the
             roll-out makes libvirt's hook on hosts
hypervisor   what a host can do: the interface, and one file for each driver
nodes        names of a node's files and domain, and the hosts of a cluster

site         where everything lives, the settings, the store (SQLite), and the session that a process works with
timing       start, end, bytes and outcome of each phase and node
pki          who may talk to whom: the site's authority, keys and certificates
run, errors  processes and failures; change: what an operation found and what it left
text         what users, guests and hosts wrote, made fit to be shown, stored and logged
inventory    the sites of an Ansible inventory; access: ssh to their clusters' nodes
module       what the Ansible modules share; action does their work in Ansible's own process
cli          the `vclust` command: clusters, caches and files are its commands, sites what it reads of the sites,
             playbooks and runner run what changes something, progress and tables are what it shows
arguments    the types of what is typed, for the command and the playbooks
"""
