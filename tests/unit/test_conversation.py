"""Processes that are spoken to while they run."""

import os
from pathlib import Path

import pytest

from vclust_py.conversation import Conversation


def heard(talk: Conversation, count: int) -> list[str]:
    """The next so many lines."""
    lines: list[str] = []
    while len(lines) < count:
        more = talk.hear(20)
        assert more
        lines += more
    return lines


def test_it_answers_before_it_has_heard_all() -> None:
    talk = Conversation(["sh", "-s"])
    talk.say("echo one\n")
    assert heard(talk, 1) == ["one"]
    assert not talk.ended
    talk.say("echo two; echo wrong >&2; printf 'no end'; exit 3\n")
    assert heard(talk, 1) == ["two"]
    assert talk.hear(20) == []
    assert talk.ended
    assert talk.output == "one\ntwo\nno endwrong\n"
    assert talk.status == 3
    talk.say("too late\n")
    talk.close()


def test_silence_ends_with_the_time_that_was_given() -> None:
    talk = Conversation(["sleep", "60"])
    assert talk.hear(0.01) == []
    assert not talk.ended
    talk.close()
    assert talk.ended
    assert talk.hear(60) == []


def test_more_than_a_pipe_holds_is_taken_while_it_is_heard() -> None:
    talk = Conversation(["cat"])
    lines = [f"{number:06d}" for number in range(50_000)]
    talk.say("".join(f"{line}\n" for line in lines))
    assert heard(talk, len(lines)) == lines
    talk.close()


def test_one_that_prints_without_end_is_stopped() -> None:
    talk = Conversation(["yes"], limit=1 << 16)
    while not talk.ended:
        talk.hear(20)
    assert talk.output.endswith("stopped, as it printed more than 65536 bytes\n")
    talk.close()


def test_a_command_that_is_not_there_has_ended() -> None:
    talk = Conversation(["/no/such/command"])
    assert talk.hear(20) == []
    assert talk.ended
    assert "No such file" in talk.output
    talk.close()


def test_its_end_is_the_end_of_the_command(tmp_path: Path) -> None:
    talk = Conversation(["sh", "-c", f"echo $$ > {tmp_path}/pid; echo; exec sleep 60"])
    heard(talk, 1)
    pid = int((tmp_path / "pid").read_text())
    talk.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
