"""Failures.  The library raises these; modules, plugins and the command convert them at the edge."""


class VclustError(Exception):
    """Something did not work part-way.  `exit_code` is what the `vclust` command ends with."""

    exit_code = 4

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message}\n  hint: {hint}")


class RequestError(VclustError):
    """The request cannot be taken.  `problems` holds every mistake that was found, one line each."""

    exit_code = 2

    def __init__(self, problems: list[str], hint: str | None = None) -> None:
        self.problems = problems
        super().__init__("\n".join(problems), hint)


class CapacityError(VclustError):
    """The site has not enough free CPU, memory or disk."""

    exit_code = 3
