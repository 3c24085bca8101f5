"""Manifests: what is written is read again, and so is what earlier and later versions write."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vclust_py.image import Manifest, PackageRecord, Place
from vclust_py.image.manifest import SCHEMA, NewerSchema, contents, records
from vclust_py.resolve import Package

RECORDS = (PackageRecord("gcc", "4:12.2", "0a" * 32), PackageRecord("make", "4.3-4.1", "0b" * 32))
MANIFEST = Manifest(
    kind="cache",
    digest="01" * 32,
    key="k",
    backing="02" * 32,
    suite="bookworm",
    architecture="amd64",
    packages=RECORDS,
    installed_size=7,
    contents=contents(RECORDS),
    state="unpacked",
    bytes=5,
    virtual_size=3 << 30,
    build_seconds=1.5,
    tools=("qemu-img 7.2",),
)

SCHEMA_0 = """{
 "kind": "cache", "digest": "cc10", "key": "4ad0", "backing": "ba5e", "packages": ["gcc=4:12.2", "make=4.3-4.1"],
 "installed_size": 7, "contents": "c0", "state": "unpacked", "bytes": 5, "virtual_size": 3221225472,
 "build_seconds": 1.5, "tools": ["qemu-img 7.2"]
}"""
"""As the versions before schema numbers wrote it."""


def test_what_is_written_is_read() -> None:
    data = json.loads(MANIFEST.to_json())
    assert (data["schema"], data["suite"], data["architecture"]) == (SCHEMA, "bookworm", "amd64")
    assert data["packages"][0] == {"name": "gcc", "version": "4:12.2", "digest": "0a" * 32}
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST


REMOTE = dataclasses.replace(
    MANIFEST,
    kind="remote-template",
    place=Place("h1", "qemu+tls://h1/system", "f", 7, "512 bytes of 1.5", ""),
)


def test_where_an_image_of_another_machine_lies() -> None:
    assert "place" not in json.loads(MANIFEST.to_json())
    assert Manifest.from_json(REMOTE.to_json()) == REMOTE


@pytest.mark.parametrize(
    ("place", "why"),
    [
        (None, "place: missing or not one"),
        ({"host": "h1"}, "place: missing or not one"),
        ({**REMOTE.place._asdict(), "bytes": "7"}, "place: bytes: of the wrong type"),  # type: ignore[union-attr]
    ],
)
def test_an_image_that_lies_nowhere(place: object, why: str) -> None:
    data = json.loads(REMOTE.to_json()) | {"place": place}
    with pytest.raises(ValueError, match=why):
        Manifest.from_json(json.dumps(data))


def test_a_manifest_without_a_schema_number_is_read_as_it_is() -> None:
    read = Manifest.from_json(SCHEMA_0, "cache-bookworm-amd64-cc10")
    assert read == dataclasses.replace(
        MANIFEST,
        digest="cc10",
        key="4ad0",
        backing="ba5e",
        packages=(PackageRecord("gcc", "4:12.2"), PackageRecord("make", "4.3-4.1")),
        contents="c0",
    )
    assert read.pinned == ("gcc=4:12.2", "make=4.3-4.1")


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("base-bookworm-arm64-01ab", ("bookworm", "arm64")),
        ("base-bookworm-backports-amd64-01ab", ("bookworm-backports", "amd64")),
        ("layer-01ab", ("", "")),
        ("", ("", "")),
    ],
)
def test_suite_and_architecture_of_old_ones_stand_in_their_names(
    stem: str, expected: tuple[str, str]
) -> None:
    read = Manifest.from_json(SCHEMA_0, stem)
    assert (read.suite, read.architecture) == expected


@pytest.mark.parametrize("text", [SCHEMA_0, MANIFEST.to_json()], ids=["schema 0", "today's"])
def test_more_fields_do_no_harm(text: str) -> None:
    more = json.dumps(json.loads(text) | {"colour": "blue", "nested": {"a": [1]}})
    assert Manifest.from_json(more) == Manifest.from_json(text)


@pytest.mark.parametrize("text", [SCHEMA_0, MANIFEST.to_json()], ids=["schema 0", "today's"])
@given(data=st.data())
def test_a_field_that_is_missing_or_of_another_type_is_refused(text: str, data: st.DataObject) -> None:
    fields = json.loads(text)
    name = data.draw(st.sampled_from(sorted(fields)))
    if data.draw(st.booleans()) and name != "schema":
        del fields[name]
    else:
        fields[name] = {"neither": "text nor number"}
    with pytest.raises(ValueError):  # noqa: PT011 - the words differ by field
        Manifest.from_json(json.dumps(fields))


def test_a_newer_schema_is_told_from_nonsense() -> None:
    newer = {"schema": SCHEMA + 1, "backing": "ba5e", "packages": 5}
    with pytest.raises(NewerSchema) as raised:
        Manifest.from_json(json.dumps(newer))
    assert raised.value.backing == "ba5e"
    for schema in (-1, True, "2", None, 1.0):
        with pytest.raises(ValueError, match="schema: not a number"):
            Manifest.from_json(json.dumps({**newer, "schema": schema}))


def test_packages_of_one_version_are_told_apart_by_their_contents() -> None:
    one, other = (Package("gcc", "12", "amd64", sha256=digit * 64) for digit in ("0", "1"))
    assert contents(records([one])) != contents(records([other]))
    assert contents(records([one, dataclasses.replace(other, name="b")])) == contents(
        records([dataclasses.replace(other, name="b"), one])
    )
    assert contents(records([dataclasses.replace(one, sha256="")])) == ""
