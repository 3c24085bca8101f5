"""A web server that is an archive, for tests: what it is asked it writes down, a line each, in the file LOG.

archive.py ADDRESS PORT LOG
"""

import http.server
import sys


class Archive(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        with open(sys.argv[3], "a", encoding="utf-8") as log:
            log.write(f"{self.path}\n")
        if self.path.endswith("moved_1_all.deb"):
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:8000/debian/pool/inner_1_all.deb")
            body = b""
        else:
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
            body = b"file " + self.path.encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


server = http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Archive)
print("up", flush=True)
server.serve_forever()
