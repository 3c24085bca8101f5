"""A BitTorrent tracker and a torrent of one file, as small as they can be: for comparison with aria2.

As a program: `tracker.py ADDRESS PORT`.
"""

import hashlib
import http.server
import random
import socket
import sys
import urllib.parse
from pathlib import Path
from typing import Any

_PIECE = 1 << 20
_PEERS = 50
"""Told to each that asks, as trackers do."""


def torrent(path: Path, announce: str) -> bytes:
    with open(path, "rb") as file:
        pieces = b"".join(hashlib.sha1(piece).digest() for piece in iter(lambda: file.read(_PIECE), b""))  # noqa: S324
    info = {"length": path.stat().st_size, "name": path.name, "piece length": _PIECE, "pieces": pieces}
    return _bencode({"announce": announce, "info": info})


def _bencode(value: Any) -> bytes:
    match value:
        case int():
            return b"i%de" % value
        case bytes():
            return b"%d:%s" % (len(value), value)
        case str():
            return _bencode(value.encode())
        case dict():
            return b"d" + b"".join(_bencode(key) + _bencode(value[key]) for key in sorted(value)) + b"e"
    raise TypeError(value)


class _Tracker(http.server.BaseHTTPRequestHandler):
    peers: set[bytes] = set()  # noqa: RUF012 - of all requests

    def do_GET(self) -> None:
        asked = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        peer = socket.inet_aton(self.client_address[0]) + int(asked["port"][0]).to_bytes(2, "big")
        others = list(self.peers - {peer})
        self.peers.add(peer)
        told = b"".join(random.sample(others, min(len(others), _PEERS)))
        answer = _bencode({"interval": 1, "min interval": 1, "peers": told})
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


if __name__ == "__main__":
    http.server.ThreadingHTTPServer.request_queue_size = 512
    http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), _Tracker).serve_forever()
