"""What the options of commands take: text to a value. argparse shows the error of a value that is refused."""

from __future__ import annotations

import argparse
import ipaddress
import math
import re
from pathlib import Path

from trainer.remote.urls import source_of

THREADS = "of torch on a CPU; beside a GPU, processes that augment"  # what --threads counts


def positive(text: str) -> int:
    """A whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def repeats(text: str) -> int:
    """A whole number from 2 on: of one training nobody knows how far it may be off."""
    number = int(text)
    if number < 2:
        raise argparse.ArgumentTypeError(f"{number} says nothing of the noise; give 2 or more")
    return number


def folds(text: str) -> int:
    """How many folds a cross-validation has: 2 to 20."""
    number = int(text)
    if not 2 <= number <= 20:
        raise argparse.ArgumentTypeError(f"{number} is not between 2 and 20")
    return number


def images_at(text: str) -> Path | str:
    """A path, or a URL as it is."""
    return source_of(text, Path())


def probability(text: str) -> float:
    """A number from 0 to 1."""
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{number} is not between 0 and 1")
    return number


def port(text: str) -> int:
    """The number of a port; 0 is one of them."""
    number = int(text)
    if not 0 <= number < 65536:
        raise argparse.ArgumentTypeError(f"{number} is no port")
    return number


def proxy(text: str) -> str:
    """An IP address as connections have it, or * for any."""
    try:
        return text if text == "*" else str(ipaddress.ip_address(text))  # as it stands in a connection
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no IP address; * stands for any") from None


def header_value(text: str) -> tuple[str, str]:
    """The name of an HTTP header and a value in it, from NAME=VALUE."""
    name, _, value = (part.strip() for part in text.partition("="))
    if not re.fullmatch(r"[A-Za-z0-9-]+", name) or not value or "," in value:
        raise argparse.ArgumentTypeError(f"{text} is not of the form HEADER=VALUE, such as X-Forwarded-Groups=lab")
    return name, value


def price(text: str) -> float:
    """A number from 0 on, not infinite."""
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{number} is no price")
    return number
