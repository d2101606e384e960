"""What ``promtool check metrics`` complains about, for machines without it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families

_FAULTY_UNITS = re.compile(r"_(ms|milliseconds?|minutes?|hours?|kb|mb|kilobytes|megabytes|percent)(_|$)")


def lint(text: str) -> list[str]:
    """One line per finding; none if the text is well formed and follows the conventions of names."""
    try:
        return list(_findings(text))
    except ValueError as error:
        return [f"not parsed: {error}"]


def _findings(text: str) -> Iterator[str]:
    assert text.endswith("\n"), "the last line has no end"
    seen: set[tuple[str, frozenset[tuple[str, str]]]] = set()
    helped, typed = (re.findall(rf"^# {word} (\S+) \S", text, re.MULTILINE) for word in ("HELP", "TYPE"))
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name, counter = sample.name, family.type == "counter"
            if name not in helped or name not in typed:
                yield f"{name}: no HELP or no TYPE"
            if counter != name.endswith("_total"):
                yield f"{name}: a counter, and only a counter, ends in _total"
            if counter and sample.value < 0:
                yield f"{name}: a negative counter"
            if name.endswith("_info") and sample.value != 1:
                yield f"{name}: an info that is not 1"
            if name != name.lower() or _FAULTY_UNITS.search(name):
                yield f"{name}: upper case, or not a base unit"
            key = (name, frozenset(sample.labels.items()))
            if key in seen:
                yield f"{name}: the same series twice"
            seen.add(key)
    if len(set(typed)) < len(typed):
        yield "a TYPE twice"
