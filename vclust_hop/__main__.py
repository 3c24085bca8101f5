"""The program: `python3 vclust-hop.pyz`, or `python3 -m vclust_hop`."""

from __future__ import annotations

import argparse
import os
import socket
import ssl

from vclust_hop.keeper import split_privileges
from vclust_hop.service import Service, listen, raise_file_limit, tls_context
from vclust_hop.store import Store
from vclust_hop.wire import Failed


def main() -> None:
    parser = argparse.ArgumentParser(description="Take files from the chain, and pass them on.")
    parser.add_argument("--folder", required=True, help="where the files go")
    parser.add_argument("--ca", required=True, help="certificate of the site's authority (PEM)")
    parser.add_argument("--certificate", required=True, help="this host's (PEM)")
    parser.add_argument("--key", required=True, help="this host's (PEM)")
    parser.add_argument("--user", help="who does all but give finished files, which are root's, their names")
    parser.add_argument("--listen", metavar="ADDRESS:PORT", help="by default systemd's socket")
    parser.add_argument(
        "--idle", type=float, default=0.0, help="seconds without work after which to end; 0: never"
    )
    options = parser.parse_args()
    if options.listen:
        address, _, port = options.listen.rpartition(":")
        sockets = [listen(address.strip("[]"), int(port))]
    elif os.environ.get("LISTEN_PID") == str(os.getpid()):
        sockets = [socket.socket(fileno=3 + index) for index in range(int(os.environ["LISTEN_FDS"]))]
    else:
        parser.error("neither --listen nor a socket of systemd's")
    raise_file_limit()
    context = tls_context(ssl.Purpose.CLIENT_AUTH, options.ca, options.certificate, options.key)
    folder = os.open(options.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        store = split_privileges(folder, options.user, sockets) if options.user else Store(folder, folder)
    except (Failed, KeyError) as error:
        parser.error(f"{options.folder}, {options.user}: {error}")
    Service(sockets, context, store).run(options.idle)


if __name__ == "__main__":
    main()
