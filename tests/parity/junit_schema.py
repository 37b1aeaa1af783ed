"""The grammars of two JUnit schemas, written from their XSD files: Apache Ant's and that of Jenkins' xUnit plugin.

An XSD validator is not among the dependencies, and these documents use little of what XSD can say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

__all__ = ["ANT", "JENKINS", "Rule", "violations"]

_ANY = r"[\s\S]*"
_INT = r"-?\d+"
_WORDS = r"\S+( \S+)*"
_DECIMAL = r"-?\d+(\.\d*)?"
_SUREFIRE_TIME = r"(([0-9]{0,3},)*[0-9]{3}|[0-9]{0,3})*(\.[0-9]{0,3})?"


@dataclass(frozen=True)
class Rule:
    """What an element may hold.

    Attributes:
        children: a pattern of the names of its children, each followed by a blank.
        required: attributes that must be there, and patterns of their values.
        optional: attributes that may be.
        text: whether it may hold text.
    """

    children: str = ""
    required: dict[str, str] = field(default_factory=dict)
    optional: dict[str, str] = field(default_factory=dict)
    text: bool = False


_RESULT = Rule(required={"type": _ANY}, optional={"message": _ANY}, text=True)
ANT = {
    "testsuites": Rule("(testsuite )*"),
    "testsuite": Rule(
        "properties (testcase )*system-out system-err ",
        required={
            "name": _WORDS,
            "timestamp": r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}",
            "hostname": _WORDS,
            "tests": _INT,
            "failures": _INT,
            "errors": _INT,
            "time": _DECIMAL,
            "package": _ANY,
            "id": _INT,
        },
        optional={"skipped": _INT},
    ),
    "properties": Rule("(property )*"),
    "property": Rule(required={"name": _WORDS, "value": _ANY}),
    "testcase": Rule("(skipped |error |failure )?", required={"name": _ANY, "classname": _ANY, "time": _DECIMAL}),
    "skipped": Rule(optional={"message": _ANY}, text=True),
    "error": _RESULT,
    "failure": _RESULT,
    "system-out": Rule(text=True),
    "system-err": Rule(text=True),
}
_LOOSE = Rule(optional={"type": _ANY, "message": _ANY}, text=True)
JENKINS = {
    "testsuites": Rule(
        "(testsuite )*",
        optional={"name": _ANY, "time": _SUREFIRE_TIME, "tests": _ANY, "failures": _ANY, "errors": _ANY},
    ),
    "testsuite": Rule(
        "(testsuite |properties |testcase |system-out |system-err )*",
        required=dict.fromkeys(("name", "tests", "failures", "errors"), _ANY),
        optional={
            "time": _SUREFIRE_TIME,
            **dict.fromkeys(("group", "skipped", "timestamp", "hostname", "id", "package", "file", "log"), _ANY),
        },
    ),
    "properties": Rule("(property )*"),
    "property": Rule(required={"name": _ANY, "value": _ANY}),
    "testcase": Rule(
        "(skipped |error |failure |system-out |system-err )*",
        required={"name": _ANY},
        optional=dict.fromkeys(("time", "classname", "group"), _ANY),
    ),
    "skipped": _LOOSE,
    "error": _LOOSE,
    "failure": _LOOSE,
    "system-out": Rule(text=True),
    "system-err": Rule(text=True),
}


def violations(element: Element, schema: dict[str, Rule]) -> list[str]:
    """Return what a document violates, one line each, with the element's name first."""
    rule = schema.get(element.tag)
    if rule is None:
        return [f"{element.tag}: unknown element"]
    found = []
    children = "".join(f"{child.tag} " for child in element)
    if not re.fullmatch(rule.children, children):
        found.append(f"{element.tag}: holds {children.split()}")
    found += [f"{element.tag}: lacks {name}" for name in rule.required if name not in element.attrib]
    for name, value in element.attrib.items():
        pattern = {**rule.required, **rule.optional}.get(name)
        if pattern is None:
            found.append(f"{element.tag}: unknown attribute {name}")
        elif not re.fullmatch(pattern, value):
            found.append(f"{element.tag}: {name} is {value!r}")
    if not rule.text and (element.text or "").strip():
        found.append(f"{element.tag}: holds text")
    return found + [line for child in element for line in violations(child, schema)]
