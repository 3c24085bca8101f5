"""The request (the paper's 2.1 and 4.2, Figure 4): what a user asks for, as one frozen `Request`.

model        every key, defined once; keys what a definition holds, values the types, accounts those of users and their
             ssh keys, system_names the names that no user may have, volumes that of the data disk
parsing      a file, a text or a variable becomes a request; ini_form and yaml_form read the two forms into a `Reading`
             (reading), YAML and variables by way of a tree; checks makes the values, or tells all mistakes at once
differences  what two requests differ in, for people
stored_form  a request as a site keeps it: trusted, with a schema number
answers      a request as a survey gives it, a variable for each key
schema       the JSON schema; ansible the modules' options; documentation the table of docs/request.md
"""

from vclust_py.request.accounts import SSHKey, User
from vclust_py.request.differences import differences
from vclust_py.request.model import Hardware, Request, Software, to_mapping
from vclust_py.request.parsing import from_mapping, load, read, read_stream
from vclust_py.request.stored_form import from_stored, stored
from vclust_py.request.volumes import Volume

__all__ = [
    "Hardware",
    "Request",
    "SSHKey",
    "Software",
    "User",
    "Volume",
    "differences",
    "from_mapping",
    "from_stored",
    "load",
    "read",
    "read_stream",
    "stored",
    "to_mapping",
]
