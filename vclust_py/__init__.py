"""vclust: virtual clusters on the fly.  The modules in the order of the flow:

request      a request file (INI or YAML) becomes a frozen `Request`; every key of it is defined once, in request.model
metapackages named bundles of packages, debconf answers and configuration steps
phases       the phases of a cluster, a file each, and their order: request, resolve, cache, place, image, distribute,
             create, install, ready; destroy

What phases stand on, in the same order:
resolve      names of packages become their closure, by real apt; lock is what it comes to, the exact packages
relock       the lock of nodes that run, once other packages are asked for
apt          private apt roots: sources, package index, apt's tools away from the machine's own state
cache        learning which sets of packages to keep installed, and which of them a request starts from
monitor      the resource monitor: hosts asked what they have and what runs there, and that written down
quotas       projects and quotas, and what live clusters have of them
placement    which node runs on which host, all or nothing: free_capacity is what hosts have left, shortage what is
             missing when not all nodes fit
estimate     how long a create may take; fitting finds in the background what that goes by
image        base image, package store, request layers, package bundles, installer
chain        files to many hosts in nearly the time of one; the package vclust_hop is what runs on each of them
nodes        what phases know of a cluster's nodes; addresses their hardware addresses
frozen       where frozen machines are made and lie, here and on other hosts
templates    frozen nodes that others start from as clones; suspended are frozen installers, clones is which nodes start
             from which, starts how a node has started
leftovers    taking clusters off their hosts; what destroyed ones left on hosts that were written off
life         a cluster once it is ready: what is true of it now, stop and start, its lease, healing, and the keeper that
             does this by itself
repair       what a site manager has for running clusters, made again when its machine was restarted or is a new one
identities   a cluster's keys, and what is made of them: seeds and the disk that nodes share
seed         the small disk that carries a node's identity
guest        what nodes share, what they say on their consoles, and the proof that a cluster works
network      one isolated segment and one router namespace a cluster; router_socket what nodes reach there, serving a
             file for them; network_hook a machine's end of it, which the roll-out makes libvirt's hook on hosts;
             egress the way out, egress_relay what nodes' apt talks to, nat the way to the internet; ingress the way in
             without root, ingress_relay what lets people in; gateway the way in from other machines, gateway_jump what
             it runs for them; homes that outlive clusters, home_server what serves them to one, home_mount the process
             that mounts them and becomes that
             leftover_networks what is there of networks, and is no cluster's
hypervisor   what a host can do: the interface, and one file for each driver
access       how ssh reaches a cluster's nodes: options, and configurations for people

offers       what each site offers to a request that leaves the site open, and which one takes it

What all of it stands on:
site         a site's settings, its store (clusters, nodes, timings, learning, audit) and the session of a process
timing       start, end, bytes and outcome of each phase and node
pki          who may talk to whom: the site's authority, keys and certificates; x509 how these are made
hosts        hosts as people see them: what each has, what is wrong with it; taking one out of the site
change       what an operation found and what it left
run, errors  processes and failures; conversation a process that is spoken to while it runs
text         what users, guests and hosts wrote, made fit to be shown, stored and logged

What uses it:
report       pages of what a site and its clusters did, and figures for Prometheus
inventory    the sites of an Ansible inventory
module       what the Ansible modules share; action does their work in Ansible's own process
steps        how far a phase on another machine is, line by line
cli          the `vclust` command: clusters, life, history, login (liveness), caches, volumes, homes, files, site,
             backup, report, audit and more are its commands, init and completion among them, sites what it reads of the
             sites, playbooks and runner run what changes something, progress, tables and messages are what it shows,
             manual its page for man(1)
awx          what AWX is given of the project: a bundle of job templates, their surveys and what these need
arguments    the types of what is typed, for the command and the playbooks
"""
