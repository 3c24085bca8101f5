"""`vclust cache rank` and `simulate`, as people and scripts call them."""

import json
import re
import sys
from pathlib import Path

import matplotlib
import pytest

from vclust_py import cli

DATA = Path(__file__).parent.parent / "cache/data"
TRACE = ["--packages", str(DATA / "packages.jsonl.gz"), "--requests", str(DATA / "requests.jsonl.gz")]


def vclust(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["cache", *words])
    code = ended.value.code
    assert isinstance(code, int)
    return code


def test_rank(capsys: pytest.CaptureFixture[str]) -> None:
    assert vclust("rank", *TRACE, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    assert all(set(row) == {"rank", "packages", "frequency", "size", "score"} for row in rows)
    assert all(row["packages"] == sorted(row["packages"]) for row in rows)
    assert all(row["score"] == row["frequency"] * row["size"] > 0 for row in rows)
    assert vclust("rank", *TRACE) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["RANK", "REQUESTS", "SIZE", "SCORE", "PACKAGES", "AMONG", "THEM"]
    assert len(lines) == len(rows) + 1


@pytest.mark.parametrize(
    "policy", ["none", "common", "paper", "greedy", "nested", "landlord", "lru", "oracle"]
)
def test_simulate(capsys: pytest.CaptureFixture[str], policy: str) -> None:
    assert vclust("simulate", *TRACE, "--policy", policy, "--budget", "2GB", "--every", "25", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result) == [
        "policy",
        "requests",
        "hits",
        "bytes_requested",
        "bytes_saved",
        "stored_bytes_max",
        "seconds",
    ]
    assert (result["policy"], result["requests"]) == (policy, 102)
    assert 0 <= result["bytes_saved"] < result["bytes_requested"]
    assert result["stored_bytes_max"] <= 2 * 10**9
    assert (result["hits"] > 0) == (result["bytes_saved"] > 0) == (policy not in ("none", "common"))


def test_simulate_for_people_and_by_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert vclust("simulate", *TRACE, "--order", "date", "--warmup", "10", "--every", "5") == 0
    text = capsys.readouterr().out
    assert "after the warm-up" in text
    assert "20 " in text


@pytest.mark.parametrize("policy", ["greedy", "nested", "oracle", "common", "none"])
def test_other_policies_rank_what_they_would_take(capsys: pytest.CaptureFixture[str], policy: str) -> None:
    assert vclust("rank", *TRACE, "--policy", policy, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(row["score"] >= 0 for row in rows)
    assert bool(rows) == (policy not in ("none", "common"))


def test_mistakes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert vclust("simulate", *TRACE, "--policy", "papr") == 2
    assert "vclust: policy: got 'papr', expected one of nested, paper," in capsys.readouterr().err
    assert vclust("simulate", *TRACE, "--budget", "5") == 2
    assert "argument --budget: got '5', expected a size such as 5GB" in capsys.readouterr().err
    assert vclust("rank", *TRACE, "--policy", "lru") == 2
    assert "policy: got 'lru', which ranks nothing" in capsys.readouterr().err
    broken = tmp_path / "requests.jsonl"
    broken.write_text('{"closure": []}\n{"closure": [99999]}\n')
    assert vclust("simulate", *TRACE[:3], str(broken)) == 2
    assert f"vclust: {broken}:2: closure: got 99999, expected an id of " in capsys.readouterr().err


def test_no_requests(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    empty = tmp_path / "requests.jsonl"
    empty.write_text("")
    assert vclust("rank", *TRACE[:3], str(empty)) == 0
    assert "no candidates" in capsys.readouterr().out
    assert vclust("simulate", *TRACE[:3], str(empty), "--policy", "oracle", "--json") == 0
    assert json.loads(capsys.readouterr().out)["requests"] == 0


@pytest.mark.parametrize(("name", "magic"), [("a.svg", b"<?xml"), ("a.png", b"\x89PNG")])
def test_plot(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, magic: bytes) -> None:
    assert vclust("rank", *TRACE, "--json", "--plot", str(tmp_path / name), "--budget", "1GB") == 0
    assert (tmp_path / name).read_bytes().startswith(magic)


def test_a_plot_says_what_is_in_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "a.svg"
    # Text as text, not as outlines of letters.
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        assert vclust("rank", *TRACE, "--json", "--plot", str(picture), "--budget", "1GB") == 0
    text = picture.read_text()
    assert "chosen as caches" in text
    assert re.search(r"\d+ requests, [\d.]+ MB, \d+ packages: \S+, \S+, \S+, …", text)
    assert re.search(r">\d+ MB<", text), "sizes at the axis"


def test_too_little_for_a_plot(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    empty = tmp_path / "requests.jsonl"
    empty.write_text("")
    assert vclust("rank", *TRACE[:3], str(empty), "--plot", str(tmp_path / "a.svg")) == 4
    assert "plot: got 0 distinct requests, expected two at least" in capsys.readouterr().err
    assert not (tmp_path / "a.svg").exists()


def test_without_the_library_of_pictures(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hint is a command that works as it is, whatever folder and environment it is typed in."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert vclust("rank", *TRACE, "--json", "--plot", str(tmp_path / "a.svg")) == 4
    assert f"hint: {sys.executable} -m pip install 'matplotlib>=3.7'" in capsys.readouterr().err


def test_plot_of_no_picture(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert vclust("rank", *TRACE, "--json", "--plot", str(tmp_path / "a.txt")) == 2
    assert "expected a file that ends in .svg or .png" in capsys.readouterr().err
    assert vclust("rank", *TRACE, "--json", "--plot", str(tmp_path / "no/a.svg")) == 4
    assert "No such file or directory" in capsys.readouterr().err
