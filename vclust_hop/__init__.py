"""The hop service of the chain, which runs on every host (docs/chain.md has the protocol).

Standard library of Python 3.9 only.  The roll-out ships it as one zipapp; the head imports formats and the sending side
from here.  In the order of use:

wire       frames on data connections, lines on control connections
native     functions of C libraries: AES-GCM, zstd, prctl
tags       block tags, encryption and compression of single blocks
messages   what the head says, checked
items      what is sent as one sequence of blocks
store      the folder of files and that of their drafts
keeper     root's part, which gives finished files their names
files      items on this host: checked, written, named
sending    blocks to whoever proves that it belongs to the transfer
receiving  items from whatever source the head names
session    one transfer on this host
service    connections: who may command, who may pull
__main__   the program
"""
