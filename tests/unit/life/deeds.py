"""Deeds at random, all of which follow from a seed: what tests of whole lives do, on hosts that keep books and on
real ones.
"""

import os
import random
from collections.abc import Callable, Sequence

Deed = Callable[[str], None]
"""Something done to, or that happens to, the cluster of a name."""


class Deeds:
    """Environment variables: VARIABLE_SEED, which a failure names, and VARIABLE_STEPS."""

    def __init__(self, variable: str, seed: str, steps: int) -> None:
        seed = os.environ.get(f"{variable}_SEED", seed)
        self.steps = int(os.environ.get(f"{variable}_STEPS", str(steps)))
        self.random = random.Random(f"lives {seed}")  # noqa: S311
        self.seed = f"{variable}_SEED={seed}"
        self.done: list[str] = []
        """What was done, with what came of it."""

    def choose(self, deeds: Sequence[Deed], names: Callable[[Deed], Sequence[str]]) -> tuple[Deed, str]:
        """One of the deeds, and one of the names that are for it."""
        deed = self.random.choice(deeds)
        name = self.random.choice(names(deed))
        self.done.append(f"{deed.__name__} {name}")
        return deed, name

    def came_of_it(self, what: str) -> None:
        self.done[-1] += f" ({what})"

    def told(self) -> str:
        """How to have the same again, and the last of what was done."""
        return "\n".join([self.seed, *self.done[-80:]])
