"""vclust: virtual clusters on the fly.  The modules in the order of the flow:

request      a request file (INI or YAML) becomes a frozen `Request`; every key of it is defined once, in request.model
metapackages named bundles of packages, debconf answers and configuration steps
resolve      `Request` becomes the `Lock`: the package closure, by real apt
apt          private apt roots: sources, package index, apt's tools away from the machine's own state
cache        learning which sets of packages to keep installed, and which of them a request starts from
place        which node runs on which host, all or nothing
image        base image, package store, request layers, package bundles, installer
seed         the small disk that carries a node's identity
guest        what nodes share: the cluster's disk and its ssh authority; the proof that a cluster works
network      one isolated segment and one router namespace a cluster; network_hook a machine's end of it, which the
             roll-out makes libvirt's hook on hosts
hypervisor   what a host can do: the interface, and one file for each driver
distribute   images to hosts that are other machines
chain        files to many hosts in nearly the time of one; the package vclust_hop is what runs on each of them
create       overlays, seeds, domains
ready        waiting for the nodes, and the proof that the cluster works
destroy      what `create` made, taken away again

state        the site's SQLite database: clusters, nodes, placements, timings, audit
timing       start, end, bytes and outcome of each phase and node
pki          who may talk to whom: the site's authority, keys and certificates
site         where everything lives; the settings of a site
run, errors  processes and failures
text         what users, guests and hosts wrote, made fit to be shown, stored and logged
inventory    the sites of an Ansible inventory
module       what the Ansible modules share; action does their work in Ansible's own process
cli          the `vclust` command: clusters, caches and files are its commands, sites what it reads of the sites,
             playbooks and runner run what changes something, progress and tables are what it shows
arguments    the types of what is typed, for the command and the playbooks
"""
