"""The life of a cluster once it is ready.  The modules in the order of their use:

look        what runs on hosts now, asked within a bounded time
terminal    what a node's console says
apply       another request for a cluster that is made: its spec and places, nodes that go
leave       what runs on nodes told that some of them go
packages    what running nodes lack of their cluster's packages, and how that comes to them
teach       nodes that run told of their cluster's generation
upgrade     today's versions of a cluster's packages
stop        nodes shut down on purpose, with what they stand on kept
restart     nodes restarted in turn that are to have other CPUs, memory or disks
snapshot    copies of all nodes' disks, and back to one of them
updates     newer versions of what clusters were made of
capture     the packages that a cluster has now, as a request
volume      the end of a data disk; homes that of an owner's homes
lease       when a cluster's time is over, whom that is told before, and how it is prolonged
idle        whether anybody uses a cluster
message     words on the terminals of those who are logged in
hook        the site's own program that is told what happens by itself
replace     other places for nodes whose host is dead
heal        nodes that do not run, though they should, started again
keeper      the process on the site manager that does all this by itself
"""
