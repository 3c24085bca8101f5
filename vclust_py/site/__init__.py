"""A site: one site manager and its hosts.  The modules from the settings to what uses them:

settings    where everything lives under the site's root, and what the inventory sets
users       whom this process works for, and what they may do with whose clusters
store       the site's SQLite database: one connection a process, transactions; migrations has its forms
states      the states of clusters, nodes and hosts, and which may follow which
clusters    rows of clusters and nodes: what they should be, and what they were last seen to be
changes     rows of clusters that change once they are made: nodes more, fewer and elsewhere
condition   what a cluster is now, by what its hosts have told, and how old that is
hosts       rows of hosts: what the site knows of each, and since when
records     rows of timings and progress, and of models fitted to them
learning    rows of what is learnt from: past requests, uses and choices of caches; resolutions by their index
describe    clusters as plain data, for people and scripts
backup      all of that which cannot be made again, in one file, and back
session     what a process works with: the store, the images, connections to hosts
"""

from vclust_py.site.settings import PROJECT, Site

__all__ = ["PROJECT", "Site"]
