"""apt in a real node: by the site's proxy, and with no way out where the site has none."""

import shutil
from collections.abc import Iterator

import pytest
from machine import Vclust, left_since, local, set_site, snapshot

from vclust_py.site import Site

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(shutil.which("apt-cacher-ng") is None, reason="apt-cacher-ng is not installed"),
]

REQUEST = """
[Hardware]
NumberOfNodes: 1
RAM: 512MB
[Software]
Name: out
Hostname: t-out%02d
Network: 192.168.79.0/24
Packages: netcat-openbsd
"""


@pytest.fixture(scope="module")
def vclust(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vclust]:
    folder = tmp_path_factory.mktemp("out")
    command = local(folder, root=site.root, egress="proxy")
    yield command
    command.clear()


def test_a_package_is_installed_in_a_running_node(vclust: Vclust, site: Site) -> None:
    before = snapshot()
    request = vclust.request("out", REQUEST)
    assert "egress" not in vclust("create", request), "a warning"
    router = "192.168.79.254"
    install = "apt-get -q update && apt-get -qy install hello && hello"
    said = vclust("ssh", "out", "--", install)
    assert "Hello, world!" in said
    assert (site.root / "proxy/cache").is_dir()

    # Nothing else: no name, no other machine, not the proxy for anything else.
    for trial in ("getent hosts deb.debian.org", "nc -w 3 -z 1.1.1.1 80", f"nc -w 3 -z {router} 22"):
        assert vclust("ssh", "out", "--", f"{trial} || echo none").splitlines()[-1] == "none"
    ask = f"printf 'GET http://127.0.0.1/ HTTP/1.1\\r\\n\\r\\n' | nc -w 10 {router} 3142 | head -1"
    assert vclust("ssh", "out", "--", ask).split()[1] == "403"

    set_site(vclust.inventory, root=site.root, egress="none")
    vclust("create", request)
    said = vclust("ssh", "out", "--", "apt-get -q update 2>&1; apt-get -qy install sl 2>&1 || echo none")
    assert said.splitlines()[-1] == "none"
    assert "Could not connect to 192.168.79.254:3142" in said

    set_site(vclust.inventory, root=site.root, egress="proxy")
    vclust("create", request)
    assert "is already the newest" in vclust("ssh", "out", "--", "apt-get -qy install hello")
    vclust("ssh", "out", "--", "apt-get -q update")
    vclust("destroy", "out")
    assert left_since(before) == {}
