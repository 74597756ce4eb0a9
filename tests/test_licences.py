"""The licences of what is installed, and the hashes of what CI installs."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import licences
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent


def test_no_licence_is_unknown_or_a_copyleft_that_was_not_looked_at() -> None:
    found = licences.needed(("dev",))
    assert len(found) > 100
    for name, licence in found.items():
        parts = set(re.split(r" (?:AND|OR|WITH) ", licence.replace("(", "").replace(")", "")))
        if name in licences.WEAK:
            assert parts - licences.FREE == {licences.WEAK[name]}, (name, licence)
        else:
            assert licence, f"{name} says no licence"
            assert parts <= licences.FREE, (name, licence)


def test_the_page_lists_what_is_installed() -> None:
    def listed(text: str) -> set[str]:
        return set(re.findall(r"^\| (\S+ \| .+) \|$", text, re.MULTILINE))

    now = listed(licences.page())
    assert now <= listed(licences.PAGE.read_text()), "make licences"
    assert len(now) > 100


def test_every_package_but_torch_has_hashes() -> None:
    """requirements.txt is what `make lock` makes of constraints.txt, for who develops."""
    text = (ROOT / "requirements.txt").read_text()
    lines = text.splitlines()
    hashed = {
        f"{canonicalize_name(name)}=={version.split()[0].rstrip(';')}"
        for line, after in itertools.pairwise(lines)
        if after.startswith("    --hash=sha256:") and not line.startswith(" ")
        for name, _, version in [line.partition("==")]
    }
    assert len(hashed) == sum("==" in line and not line.startswith(("#", " ")) for line in lines)
    pinned = {
        f"{canonicalize_name(name)}=={version}" for name, version in (line.split("==") for line in licences.pins())
    }
    assert hashed == pinned
    assert len(hashed) > 100
    assert not any(line.startswith("torch==") for line in hashed)
