"""docs/vclust.1 is the page that the parser gives, and roff reads it as it was meant."""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vclust_py.cli import make_parser, manual
from vclust_py.site import PROJECT

PAGE = PROJECT / "docs/vclust.1"


def test_the_page_is_as_it_would_be_made() -> None:
    renew = f"python -m vclust_py.cli.manual {PAGE.relative_to(PROJECT)}"
    assert manual.page(make_parser()) == PAGE.read_text(encoding="utf-8"), f"to renew it: {renew}"
    assert renew in PAGE.read_text(encoding="utf-8")


def test_the_command_renews_it(tmp_path: Path) -> None:
    path = tmp_path / "vclust.1"
    subprocess.run([sys.executable, "-m", "vclust_py.cli.manual", path], cwd=PROJECT, check=True)
    assert path.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")


def test_every_command_and_option_is_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in ("create", "scp", "init", "completion", "cache list", "cache simulate", "site rotate\\-keys"):
        assert f"\n.SS vclust {name}\n" in text
    assert "\n.SS vclust cache\n" not in text  # it does nothing by itself
    for option in (
        "\\-\\-forget\\-host\\fR \\fIHOST",
        "\\-\\-version",
        "\\-\\-meta\\-packages\\fR \\fIVALUE",
    ):
        assert f"\\fB{option}\\fR" in text
    assert "\n.TP\n130\nCtrl\\-C\n" in text


def made(**argument: object) -> str:
    parser = argparse.ArgumentParser(prog="x", description="X.", epilog="Exit status: 0 done.")
    parser.add_argument("word", **argument)  # type: ignore[arg-type]
    return manual.page(parser)


def test_text_that_roff_would_take_for_its_own() -> None:
    assert "\n\\&.TH is 5% of \\e(em and \\[u2026]\n" in made(help=".TH is 5%% of \\(em and …", metavar="W")
    assert "\n\\&'so\n" in made(help="'so", metavar="W")
    assert "\n{a,b}\n" in made(choices=["a", "b"], help="one")


@pytest.mark.skipif(shutil.which("groff") is None, reason="there is no groff")
def test_roff_has_nothing_to_complain_of() -> None:
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", PAGE],
        env={**os.environ, "GROFF_NO_SGR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert "ssh-ed25519 AAAA…" in done.stdout
