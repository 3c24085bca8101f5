"""What Ansible reads of the variables that the command hands over."""

from pathlib import Path
from typing import Any

import pytest
from ansible._internal._datatag._tags import TrustedAsTemplate
from ansible.parsing.dataloader import DataLoader

from vclust_py.cli.runner import _failure, _hand_over

ODD = ["", " a ", "a\nb", "\x7f\x85é😀", "{{ 1 + 1 }}", "'\""]
GUESSED = ["*", "=", "<<", "!x", "true", "12", "1e3", "~", "2026-01-31"]
"""What plain YAML takes for something else than text, or for nothing."""


@pytest.mark.parametrize("text", ODD + GUESSED)
def test_every_text_is_what_it_was_and_no_template(tmp_path: Path, text: str) -> None:
    given = {"name": text, "request": {"users": [{"hash": text}], "words": (text, 7, 1.5, None, True)}}
    _hand_over(given, tmp_path)
    file = tmp_path / "env/extravars"
    assert file.stat().st_mode & 0o777 == 0o600
    read = DataLoader().load_from_file(str(file), trusted_as_template=True)
    assert read == {"name": text, "request": {"users": [{"hash": text}], "words": [text, 7, 1.5, None, True]}}
    assert not any(TrustedAsTemplate.is_tagged_on(one) for one in texts(read))


def texts(value: Any) -> list[str]:
    """Of all depths."""
    if isinstance(value, dict):
        return [text for item in value.values() for text in texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in texts(item)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"msg": "Task failed: Module failed: No module named 'vclust_py'"}, "No module named 'vclust_py'"),
        (
            {
                "msg": "Module result deserialization failed: No start of json char found",
                "module_stderr": "\n/bin/sh: 1: /usr/bin/python3: not found\n",
            },
            "/bin/sh: 1: /usr/bin/python3: not found",
        ),
    ],
)
def test_a_python_that_does_not_fit(result: dict[str, str], said: str) -> None:
    """The likely mistake in an inventory of one's own; Ansible's words for it name no place and no next step."""
    first, hint = _failure("m1", result).splitlines()
    assert first == f"m1: the module did not run: {said}"
    assert hint.startswith(
        "  hint: in the inventory set ansible_python_interpreter of m1 to a Python that has vclust_py"
    )


def test_other_failures_are_told_as_they_are() -> None:
    assert (
        _failure("m1", {"msg": "m1: disk full", "exit_code": 4, "module_stderr": "x: not found"})
        == "m1: disk full"
    )
    assert _failure("m1", {}) == "the task failed without a word"
    crashed = {"msg": "Module failed", "module_stderr": "Traceback\n  File x\nValueError: odd"}
    assert _failure("m1", crashed) == "Module failed: ValueError: odd\n  hint: -v shows all that was printed"
