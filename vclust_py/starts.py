"""How a node has started, as the outcome of its part in phase `create` says it."""

FORKED = "forked"
RESUMED = "resumed"
BOOTED = "done"
_INSTEAD = "booted: "
_CLONES = {FORKED: "fork", RESUMED: "resume"}


def is_clone(outcome: str) -> bool:
    return outcome in _CLONES


def instead(why: str) -> str:
    """The outcome of a node that boots, and was to start as a clone."""
    return f"{_INSTEAD}{why}"


def how(outcome: str) -> tuple[str, str]:
    """`fork`, `resume` or `boot`, and why it is not what it was to be; empty where the node has not started."""
    if is_clone(outcome):
        return _CLONES[outcome], ""
    if outcome.startswith(_INSTEAD):
        return "boot", outcome.removeprefix(_INSTEAD)
    return ("boot", "") if outcome == BOOTED else ("", "")
