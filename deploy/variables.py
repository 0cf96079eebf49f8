"""The variables of compose.yaml: explained to the user, and the only place a secret comes from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?P<sign>:?[-?])?(?P<rest>[^{}$]*)\}")
_SECRET = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|AUTH|API_?KEY")
_IN_URL = re.compile(r"://[^\s/:@]*:(?P<secret>[^\s/@]*|\$\{[^}]*\})@")
_REQUIREPASS = re.compile(r"^\s*(?:requirepass|masterauth)\s+(?P<secret>.*\S)", re.MULTILINE)


def expand(text: str) -> str:
    """The text with the defaults of its variables; one without a default becomes its name."""
    return _VARIABLE.sub(
        lambda found: found["rest"] if (found["sign"] or "").endswith("-") else found["name"], text
    )


def environment(service: dict[str, Any]) -> dict[str, str | None]:
    """The environment of a service, in either of its notations; None: passed on if it is set."""
    found = service.get("environment") or {}
    if isinstance(found, list):
        pairs = (str(item).partition("=") for item in found)
        return {name: value if sign else None for name, sign, value in pairs}
    return {name: None if value is None else str(value) for name, value in found.items()}


def is_secret(name: str) -> bool:
    """Whether a variable's name says that its value is for few eyes."""
    return _SECRET.search(name) is not None


def is_required(text: str) -> bool:
    """It is one variable, without which Compose refuses to start and says what to do."""
    found = _VARIABLE.fullmatch(text)
    return found is not None and found["sign"] == ":?" and bool(found["rest"])


def is_written(value: str | None) -> bool:
    """Whether a value is in the file itself, rather than in a variable without a default."""
    if not value:
        return False
    found = _VARIABLE.fullmatch(value)
    return found is None or ((found["sign"] or "").endswith("-") and bool(found["rest"]))


def check_secrets(document: dict[str, Any]) -> Iterator[str]:
    """No password is written into a URL, a configuration or a secret."""
    for place, text in _texts(document):
        for pattern in (_IN_URL, _REQUIREPASS):
            if not all(is_required(found["secret"]) for found in pattern.finditer(text)):
                yield f"{place}: its password is not of the form ${{NAME:?what to do}}"
    for name, secret in (document.get("secrets") or {}).items():
        if "content" in (secret or {}):
            yield f"secrets.{name}: its content is written into it"


def check_variables(document: dict[str, Any], example: Path) -> Iterator[str]:
    """Each variable is explained in the example, where each secret is left to the user."""
    explained = dict(
        re.findall(r"^#?([A-Z][A-Z0-9_]*)=(.*)$", example.read_text(), flags=re.MULTILINE)
    )
    used: set[str] = set()
    for place, text in _texts(document):
        for found in _VARIABLE.finditer(text):
            used.add(found["name"])
            if is_secret(found["name"]) and not is_required(found[0]):
                yield f"{place}: {found[0]} lets Compose start without it"
        if "$" in _VARIABLE.sub("", text).replace("$$", ""):
            yield f"{place}: write variables as ${{NAME}}, ${{NAME:-default}} or ${{NAME:?message}}"
    for service in document["services"].values():
        used |= {name for name, value in environment(service).items() if value is None}
    for name in sorted(used - set(explained)):
        yield f"{name} is not explained in {example.name}"
    for name, value in explained.items():
        if is_secret(name) and value:
            yield f"{example.name} gives {name} a value, which is for the user to write"


def _texts(found: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a document, with the path of keys to it."""
    if isinstance(found, str):
        yield place.removeprefix("."), found
    elif isinstance(found, dict):
        for key, value in found.items():
            yield from _texts(value, f"{place}.{key}")
    elif isinstance(found, list):
        for number, value in enumerate(found):
            yield from _texts(value, f"{place}.{number}")
