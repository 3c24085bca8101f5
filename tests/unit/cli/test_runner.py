"""What Ansible reads of the variables that the command hands over."""

from pathlib import Path
from typing import Any

import pytest
from ansible._internal._datatag._tags import TrustedAsTemplate
from ansible.parsing.dataloader import DataLoader

from vclust_py.cli.runner import _hand_over

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
