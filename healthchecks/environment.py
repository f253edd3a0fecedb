"""Options that the environment can set, as CI systems and compose files do."""

from __future__ import annotations

from argparse import ArgumentTypeError
from typing import TYPE_CHECKING

from healthchecks.probes import PROBE_NAMES

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Mapping


def positive(text: str) -> int:
    """Return a number of things of which there has to be one."""
    try:
        number = int(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no whole number") from None
    if number < 1:
        raise ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def seconds(text: str) -> float:
    """Return a time; whether it is a possible one is for whoever uses it to say."""
    try:
        return float(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no number of seconds") from None


def probes(text: str) -> list[str]:
    """Return names of probes that stand in one text, with commas or spaces between them."""
    names = text.replace(",", " ").split()
    if unknown := [name for name in names if name not in PROBE_NAMES]:
        raise ArgumentTypeError(
            f"unknown probe: {', '.join(unknown)}; known: {', '.join(PROBE_NAMES)}"
        )
    return names


# By the option's name; the API key has sources of its own.
VARIABLES: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "url": ("HEALTHCHECKS_URL", str),
    "model": ("HEALTHCHECKS_MODEL", str),
    "timeout": ("HEALTHCHECKS_TIMEOUT", seconds),
    "wait": ("HEALTHCHECKS_WAIT", seconds),
    "only": ("HEALTHCHECKS_ONLY", probes),
    "answer_tokens": ("HEALTHCHECKS_ANSWER_TOKENS", positive),
    "seed": ("HEALTHCHECKS_SEED", str),
}


def fill(arguments: Namespace, environ: Mapping[str, str], defaults: Mapping[str, object]) -> None:
    """Give each option that the command line left at None its variable's value, or its default.

    A variable of spaces, or of nothing, is not set: compose files can't leave one out.

    Raises:
        ValueError: a variable that counts has a bad value; the message names it.

    """
    for option, (variable, convert) in VARIABLES.items():
        if getattr(arguments, option, "") is not None:
            continue  # the command line has said it, or the command has no such option
        text = environ.get(variable, "").strip()
        try:
            setattr(arguments, option, convert(text) if text else defaults.get(option))
        except ArgumentTypeError as error:
            raise ValueError(f"${variable}: {error}") from None
