"""How a node has started, as the outcome of its part in phase `create` says it."""

FORKED = "forked"
BOOTED = "done"
_INSTEAD = "booted: "


def instead(why: str) -> str:
    """The outcome of a node that boots, and was to start as a clone."""
    return f"{_INSTEAD}{why}"


def how(outcome: str) -> tuple[str, str]:
    """`fork` or `boot`, and why it is not what it was to be; empty where the node has not started."""
    if outcome == FORKED:
        return "fork", ""
    if outcome.startswith(_INSTEAD):
        return "boot", outcome.removeprefix(_INSTEAD)
    return ("boot", "") if outcome == BOOTED else ("", "")
