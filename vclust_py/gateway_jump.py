#!/usr/bin/python3
"""What the site's gateway runs for whoever has logged in: the way to one node, or nothing.

sshd starts it in place of any command, with the digest of the key that was used; a copy of it is in the gateway's
folder, for an account without rights.  Of the words that the user gave (`SSH_ORIGINAL_COMMAND`) it takes NODE.CLUSTER.
Which clusters a key is for says the file `keys.json`: {DIGEST: {CLUSTER: SEGMENT}}.
"""

import json
import os
import re
import sys
from pathlib import Path

RUN = "/run/vclust/ssh"
_NODE = re.compile(r"([a-z0-9][a-z0-9-]{0,62})\.([a-z][a-z0-9-]{0,62})")
_SEGMENT = re.compile(r"vc[0-9a-f]{10}")


def target(words: str, clusters: "dict[str, str]") -> "str | None":
    """The socket of the node that the words name, if it is of one of the clusters."""
    found = _NODE.fullmatch(words)
    segment = clusters.get(found[2], "") if found else ""
    if found is None or not _SEGMENT.fullmatch(segment):
        return None
    return f"{RUN}/{segment}/{found[1]}"


def main() -> None:
    keys = json.loads(Path(sys.argv[1]).read_text(encoding="ascii"))
    path = target(os.environ.get("SSH_ORIGINAL_COMMAND", ""), keys.get(sys.argv[2], {}))
    if path is None:
        sys.exit(
            "vclust: no shell here: expected NODE.CLUSTER, a node of a cluster whose request has this key"
        )
    # -N: when who came in has gone, the node hears of it.
    os.execvp("nc", ["nc", "-N", "-U", path])  # noqa: S606 - an argument list, no shell


if __name__ == "__main__":
    main()
