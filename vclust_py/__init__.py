"""vclust: virtual clusters on the fly.  The modules in the order of the flow:

request      a request file (INI or YAML) becomes a frozen `Request`; request_forms reads the two forms,
             request_values the single values, system_names the accounts that no user may take
metapackages named bundles of packages, debconf answers and configuration steps
resolve      `Request` becomes the `Lock`: the package closure, by real apt
apt          private apt roots: sources, package index, apt's tools away from the machine's own state
cache        learning which sets of packages to keep installed, and which of them a request starts from
place        which node runs on which host, all or nothing
image        base image, package store, request layers, package bundles, installer
seed         the small disk that carries a node's identity
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
cli          the `vclust` command; drive and play run its playbooks, display is what it shows
arguments    the types of what is typed, for the command and the playbooks
"""
