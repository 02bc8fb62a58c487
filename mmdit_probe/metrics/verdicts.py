"""What `metrics.inference` finds, in sentences that claim no more than it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .inference import FEWEST, Interval, Lead


def few(n: int, unit: str) -> str:
    """What stands in place of an interval below five units.

    >>> few(1, "prompt")
    'too few prompts for an interval (1; 5 needed)'
    """
    return f"too few {unit}s for an interval ({n}; {FEWEST} needed)"


@dataclass(frozen=True)
class Form:
    """How numbers are written: ``digits`` after the point, of ``factor`` times the number, with its ``sign`` or without.

    A number that would be rounded to zero and is none has two digits of its own.

    >>> Form(3)(0.0512), Form(3)(0.00004), Form(1, 100, sign=True)(0.5), Form(3)(-0.0)
    ('0.051', '4e-05', '+50.0', '0.000')
    """

    digits: int
    factor: int | float = 1
    sign: bool = False

    def __call__(self, value: float) -> str:
        shown = self.factor * value + 0.0
        sign = "+" if self.sign else ""
        if shown and abs(shown) < 0.5 * 10.0**-self.digits:
            return format(shown, f"{sign}.1g")
        return format(shown, f"{sign}.{self.digits}f")


def in_words(found: Interval, form: Form, unit: str) -> str:
    """An interval in words, with n; or why there is none.

    >>> in_words(Interval(0.1, 0.05, 0.15, 20), Form(2), "prompt")
    '(95% interval 0.05 to 0.15; n = 20 prompts)'
    >>> in_words(Interval(0.1, float("nan"), float("nan"), 1), Form(2), "prompt")
    '(n = 1 prompt; too few prompts for an interval (1; 5 needed))'
    """
    if found.n < FEWEST:
        return f"(n = {counted(found.n, unit)}; {few(found.n, unit)})"
    if np.isnan(found.low):
        return f"(no interval; n = {found.n} {unit}s)"
    return f"(95% interval {form(found.low)} to {form(found.high)}; n = {found.n} {unit}s)"


def counted(n: int, unit: str) -> str:
    """A number with its unit.

    >>> counted(1, "prompt"), counted(20, "prompt")
    ('1 prompt', '20 prompts')
    """
    return f"{n} {unit}{'' if n == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """Names as a list in words.

    >>> listed(["layer 1", "layer 2", "layer 4"])
    'layer 1, layer 2 and layer 4'
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def lead_lines(lead: Lead, names: Sequence[str], form: Form, unit: str, kind: str) -> list[str]:
    """Whether the leader's lead is outside chance: over the other candidates together, then over the next one.

    Args:
        lead: found by `inference.best` or `best_drawn`.
        names: the candidates' names.
        form: how numbers are written.
        unit: "prompt" or "image".
        kind: what a candidate is, such as "layer".
    """
    if lead.second is None or lead.over_second is None:
        return []
    if lead.outside is None:
        return ["no verdict on its lead."]
    second, over = names[lead.second], lead.over_second
    if len(names) == 2:
        sure = "outside chance" if lead.outside else "within chance"
        return [f"its lead over {second} is {form(over.mean)} {in_words(over, form, unit)}: {sure}."]
    rest = f"its lead over the mean of the other {len(names) - 1} {kind}s, {form(lead.over_rest)}"
    if not lead.outside:
        return [f"{rest}, is, as the largest of {len(names)}, within chance."]
    apart = "outside chance" if lead.apart else "the two are not told apart"
    return [
        f"{rest}, is, as the largest of {len(names)}, outside chance.",
        f"its lead over {second}, the next, is {form(over.mean)} {in_words(over, form, unit)}: {apart}.",
    ]
