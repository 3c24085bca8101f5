"""Reports in a real browser, and metrics by Prometheus' own tool."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from report.told import a_cluster, an_overview

from vclust_py.report import page
from vclust_py.site import Site

pytestmark = pytest.mark.system

LONG = "a-word-without-any-place-to-break-it-" * 8
PAGES = {
    "cluster": lambda: page.cluster(a_cluster(text=LONG), "main"),
    "large cluster": lambda: page.cluster(a_cluster(1000, 64, failed=5), "main"),
    "site": lambda: page.site(an_overview(text=LONG), "main"),
}
WIDE = """(() => {
    const wide = document.documentElement.scrollWidth;
    return wide <= innerWidth ? "" : `${wide} of ${innerWidth}: ` + [...document.querySelectorAll("body *")]
        .filter(one => one.getBoundingClientRect().right > innerWidth).map(one => one.tagName + "." + one.className)
        .slice(0, 5).join(", ");
})()"""
"""What is wider than the window; where something scrolls by itself, it is as wide as it shows."""
SCROLLS = """[...document.querySelectorAll("body *")].filter(one =>
    one.checkVisibility() && one.scrollWidth > one.clientWidth + 1
    && ["auto", "scroll"].includes(getComputedStyle(one).overflowX)
).map((one, number) => (one.dataset.scrolls = number, number))"""
FOCUS = """(() => {
    const one = document.activeElement;
    const style = getComputedStyle(one);
    return one === document.body ? null : [one.tagName, one.dataset.scrolls ?? "", style.outlineStyle !== "none"];
})()"""
CONTRAST = """(() => {
    const light = text => {
        const [r, g, b] = text.match(/[0-9.]+/g).slice(0, 3).map(part => part / 255)
            .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const style = getComputedStyle(document.body);
    const [one, other] = [light(style.color), light(style.backgroundColor)];
    return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
})()"""
"""Of text and ground, as WCAG 2.1 has it (1.4.3)."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.mark.parametrize("kind", PAGES)
def test_pages(browser: Browser, kind: str, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(PAGES[kind](), encoding="utf-8")
    grounds = set()
    for width in (400, 1200):
        for dark in (False, True):
            browser.open(file, width=width, dark=dark)
            assert browser.said == []
            assert browser.evaluate(WIDE) == ""
            assert browser.evaluate(CONTRAST) >= 4.5
            grounds.add(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2


@pytest.mark.parametrize("kind", PAGES)
def test_everything_is_reached_by_keyboard(browser: Browser, kind: str, tmp_path: Path) -> None:
    """Links, what folds, and what scrolls; where the focus is can be seen."""
    file = tmp_path / "page.html"
    file.write_text(PAGES[kind](), encoding="utf-8")
    browser.open(file, width=400)
    scrolls = set(map(str, browser.evaluate(SCROLLS)))
    assert scrolls  # tables of a phone
    found = list[list[object]]()
    browser.press("Tab", 9)
    while (focus := browser.evaluate(FOCUS)) is not None:  # it comes back to the page itself
        found.append(focus)
        browser.press("Tab", 9)
    assert all(seen for _, _, seen in found)
    assert scrolls <= {number for _, number, _ in found}
    assert {"A", "SUMMARY"} & {name for name, _, _ in found}


def test_the_browser_sees_what_is_wrong(browser: Browser, tmp_path: Path) -> None:
    """What the tests above look for is found where it is."""
    file = tmp_path / "page.html"
    file.write_text(
        "<!doctype html><title>x</title><p style='width: 900px'>wide</p>"
        "<script>console.error('no')</script><img src='http://127.0.0.1:9/x.png'>"
    )
    browser.open(file, width=400)
    assert "P." in browser.evaluate(WIDE)
    assert any("asks for" in one for one in browser.said)
    assert any(one.get("type") == "error" for one in browser.said)


@pytest.fixture(scope="module")
def promtool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From Debian's package, unpacked only: installed it would start a server that asks nobody who they are."""
    folder = tmp_path_factory.mktemp("prometheus")
    folder.chmod(0o755)
    subprocess.run(
        ["apt-get", "-o", "APT::Sandbox::User=root", "download", "prometheus"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    (package,) = folder.glob("prometheus_*.deb")
    subprocess.run(["dpkg-deb", "--extract", package, folder], check=True)
    return folder / "usr/bin/promtool"


def test_metrics(site: Site, promtool: Path, tmp_path: Path) -> None:
    inventory = tmp_path / "inventory"
    inventory.mkdir()
    (inventory / "site.yml").write_text(
        "site_main: {hosts: {site-manager: }}\nsite_managers: {children: {site_main: }}\n"
        "vm_hosts: {hosts: {site-manager: }}\nall: {vars: {ansible_connection: local,"
        f" ansible_python_interpreter: {sys.executable}, vclust_site: {{root: {site.root}}}}}}}\n"
    )
    vclust = Path(sys.executable).with_name("vclust")
    done = subprocess.run(
        [vclust, "-i", inventory, "metrics", "--format", "prometheus"], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=done.stdout, capture_output=True, env=os.environ, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
    wrong = done.stdout.replace(b"_total", b"_sum_of")
    assert subprocess.run([promtool, "check", "metrics"], input=wrong, capture_output=True).returncode != 0
