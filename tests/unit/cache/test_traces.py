"""Reading traces: the sample of real requests beside this file, and files with broken lines."""

import gzip
import json
import re
from pathlib import Path

import pytest

from vclust_py.cache import traces
from vclust_py.errors import RequestError

DATA = Path(__file__).parent / "data"

PACKAGES = [
    {"id": 7, "name": "a", "version": "1", "installed_size": 1024},
    {"id": 3, "name": "b", "version": "2:1-1", "installed_size": 2048},
]
REQUESTS = [
    {"closure": [7, 3], "date": "2019-02-01"},
    {"closure": [3], "date": None},
    {"closure": [], "date": "2019-01-01"},
]


def write(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    return write(tmp_path / "packages.jsonl", [*PACKAGES])


def test_in_the_order_of_the_file_and_by_date(tmp_path: Path, packages: Path) -> None:
    requests = write(tmp_path / "requests.jsonl", [*REQUESTS])
    both, one, base = frozenset({"a=1", "b=2:1-1"}), frozenset({"b=2:1-1"}), frozenset[str]()
    taught = traces.read(packages, requests)
    assert [taught.sets[number] for number in taught.sequence] == [both, one, base]
    assert [taught.size(columns) for columns in taught.distinct] == [3072, 2048, 0]
    dated = traces.read(packages, requests, order="date")
    assert [dated.sets[number] for number in dated.sequence] == [base, both]


def test_the_sample_is_whole() -> None:
    taught = traces.read(DATA / "packages.jsonl.gz", DATA / "requests.jsonl.gz")
    assert (len(taught), len(taught.distinct), len(taught.packages)) == (152, len(set(taught.sets)), 2652)


BROKEN = {
    "no JSON": ("{", r"Expecting property name"),
    "an empty line": ("", r"Expecting value"),
    "no object": ("[1]", r"got '\[1\]\\n', expected a JSON object"),
    "no closure": ({"date": None}, r"closure: missing"),
    "no list": ({"closure": "ab"}, r'closure: got "ab", expected a list'),
    "unknown package": ({"closure": [7, 8]}, r"closure: got 8, expected an id of .*packages\.jsonl"),
    "no id": ({"closure": [7, "a"]}, r'closure: got "a", expected an id of .*packages\.jsonl'),
    "true is no id": ({"closure": [True]}, r"closure: got true, expected an id of .*packages\.jsonl"),
    "no date": ({"closure": [7], "date": 5}, r"date: got 5, expected text or null"),
    "deep": ("[" * 100_000, r"maximum recursion"),
}


@pytest.mark.parametrize(("line", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_request_lines_are_named_by_number(
    tmp_path: Path, packages: Path, line: object, message: str
) -> None:
    requests = write(tmp_path / "requests.jsonl", [REQUESTS[0], line, REQUESTS[1], line])
    with pytest.raises(RequestError) as caught:
        traces.read(packages, requests)
    assert len(caught.value.problems) == 2
    for number, problem in zip((2, 4), caught.value.problems, strict=True):
        assert re.match(re.escape(f"{requests}:{number}: ") + ".*" + message, problem), problem


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (PACKAGES[0], "id: got 7 a second time"),
        ({"id": 9, "name": "c", "version": "1"}, "installed_size: missing"),
        ({"id": 9, "name": "c", "version": 1, "installed_size": 1}, "version: got 1, expected text"),
        ({"id": 9, "name": "c", "version": "1", "installed_size": -1}, "installed_size: got -1, expected"),
        ({"id": 9, "name": "c", "version": "1", "installed_size": 2**64}, "installed_size: got 184"),
        ({"id": 9.0, "name": "c", "version": "1", "installed_size": 1}, "id: got 9.0, expected a whole"),
    ],
)
def test_broken_package_lines(tmp_path: Path, row: object, message: str) -> None:
    packages = write(tmp_path / "packages.jsonl", [*PACKAGES, row])
    requests = write(tmp_path / "requests.jsonl", [*REQUESTS])
    with pytest.raises(RequestError, match=re.escape(f"{packages}:3: {message}")):
        traces.read(packages, requests)


def test_a_file_of_the_wrong_kind_is_told_in_few_lines(
    tmp_path: Path, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the folder's name is in each line, and all of them have a bound
    with pytest.raises(RequestError) as caught:
        traces.read(packages, write(Path("requests.jsonl"), ["x"] * 1000))
    assert len(caught.value.problems) == 21
    assert caught.value.problems[-1].endswith("requests.jsonl: 980 more broken lines")


def test_truncated_and_missing_files(tmp_path: Path, packages: Path) -> None:
    whole = gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in REQUESTS * 1000))
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(whole[:-20])
    with pytest.raises(RequestError, match=r"cut\.jsonl\.gz:\d+: Compressed file ended"):
        traces.read(packages, cut)
    cut.write_bytes(b"no gzip")
    with pytest.raises(RequestError, match=r"cut\.jsonl\.gz: Not a gzipped file"):
        traces.read(packages, cut)
    with pytest.raises(RequestError, match=r"none\.jsonl: .*No such file"):
        traces.read(packages, tmp_path / "none.jsonl")


def test_no_dates(tmp_path: Path, packages: Path) -> None:
    requests = write(tmp_path / "requests.jsonl", [REQUESTS[1]])
    with pytest.raises(RequestError, match="date: no request has one"):
        traces.read(packages, requests, order="date")
