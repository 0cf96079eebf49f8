"""The signed envelope: what was sealed is what is opened, and nothing that differs is."""

from __future__ import annotations

import json
import string
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from justright.errors import ExpiredMessage, ForgedMessage, UsageError
from justright.signing import SHORTEST, VALID, Purpose, Signer
from tests.helpers.commands import SECRET, SIGNER
from tests.helpers.examples import tries

PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
EACH = pytest.mark.parametrize("purpose", PURPOSES)


class Clock:
    def __init__(self, now: float = 1_700_000_000.5) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@EACH
@given(body=st.text(), secret=st.text(min_size=SHORTEST))
@example(body="\n1\nbody", secret=SECRET)
@example(body="\0\u2028\U0010ffff", secret=SECRET)
def test_what_is_sealed_is_what_is_opened(purpose: Purpose, body: str, secret: str) -> None:
    sealed = Signer(secret).seal(purpose, body)
    assert "\n" not in sealed
    assert secret not in sealed.replace(body, "") or secret in body
    assert Signer(secret).open(purpose, sealed) == body
    assert Signer(secret).open(purpose, sealed.encode()) == body


@EACH
def test_of_another_secret(purpose: Purpose) -> None:
    for other in (SECRET + " ", SECRET[:-1], SECRET.upper(), " " + SECRET):
        with pytest.raises(ForgedMessage, match="another JUSTRIGHT_SECRET"):
            Signer(other).open(purpose, SIGNER.seal(purpose, "x"))


@pytest.mark.parametrize(("sealed", "opened"), [PURPOSES, PURPOSES[::-1]])
def test_for_another_purpose(sealed: Purpose, opened: Purpose) -> None:
    raw = SIGNER.seal(sealed, "x")
    with pytest.raises(ForgedMessage, match=f"found a {opened} whose signature is wrong"):
        SIGNER.open(opened, raw)
    renamed = raw.replace(f'"{sealed}"', f'"{opened}"')
    assert renamed != raw
    for purpose in PURPOSES:
        with pytest.raises(ForgedMessage):
            SIGNER.open(purpose, renamed)


def changes(text: str, alphabet: str) -> set[str]:
    """Every text that is one character away: changed, missing or added."""
    found = {text[:at] + text[at + 1 :] for at in range(len(text))}
    for letter in alphabet:
        found |= {text[:at] + letter + text[at + 1 :] for at in range(len(text))}
        found |= {text[:at] + letter + text[at:] for at in range(len(text) + 1)}
    return found - {text}


@EACH
def test_every_change_of_one_character_is_refused(purpose: Purpose) -> None:
    envelope = json.loads(SIGNER.seal(purpose, '{"trials":[1,2],"lr":0.1}'))
    assert set(envelope) == {"purpose", "expires", "body", "mac"}
    tried = 0
    for field, value in envelope.items():
        letters = string.digits if field == "expires" else string.ascii_letters + '0129 "\n\\é'
        for text in changes(str(value), letters):
            changed: Any = text
            if field == "expires":
                if not text or (text.startswith("0") and text.lstrip("0") == str(value)):
                    continue  # no number, or the same one
                changed = int(text)
            with pytest.raises(ForgedMessage):
                SIGNER.open(purpose, json.dumps(envelope | {field: changed}))
            tried += 1
    assert tried > 5000


@EACH
def test_a_changed_byte_of_the_line_never_gives_another_content(purpose: Purpose) -> None:
    raw = SIGNER.seal(purpose, '{"lr":0.1}').encode()
    for at in range(len(raw)):
        for bit in range(8):
            changed = bytearray(raw)
            changed[at] ^= 1 << bit
            with pytest.raises(ForgedMessage):
                SIGNER.open(purpose, bytes(changed))
    for end in range(len(raw)):
        with pytest.raises(ForgedMessage):
            SIGNER.open(purpose, raw[:end])


@pytest.mark.parametrize(
    "change",
    [
        {"more": 1}, {"mac": None}, {"mac": ""}, {"mac": 0}, {"expires": -1}, {"expires": "9"},
        {"expires": 1e12}, {"expires": 10**4000}, {"body": None}, {"purpose": None},
    ],
)  # fmt: skip
def test_a_field_of_another_form_is_refused(change: dict[str, Any]) -> None:
    envelope = json.loads(SIGNER.seal("job", "x"))
    with pytest.raises(ForgedMessage):
        SIGNER.open("job", json.dumps(envelope | change))


@pytest.mark.parametrize("field", ["purpose", "expires", "body", "mac"])
def test_a_field_that_is_missing(field: str) -> None:
    envelope = json.loads(SIGNER.seal("job", "x"))
    del envelope[field]
    with pytest.raises(ForgedMessage, match="without a signature"):
        SIGNER.open("job", json.dumps(envelope))


def test_the_parts_cannot_be_cut_elsewhere() -> None:
    """The number and the content lie side by side in what is signed."""
    clock = Clock()
    signer = Signer(SECRET, clock)
    envelope = json.loads(signer.seal("job", "5\nx"))
    joined = f"{envelope['expires']}\n5"
    for expires, body in ((joined, "x"), (f"{envelope['expires']}5", "x")):
        with pytest.raises(ForgedMessage):
            signer.open("job", json.dumps(envelope | {"expires": expires, "body": body}))


# -- its time ------------------------------------------------------------------------------------


@EACH
@settings(max_examples=tries(50))
@given(age=st.floats(min_value=-1e6, max_value=1e8))
def test_it_is_open_for_its_time(purpose: Purpose, age: float) -> None:
    clock = Clock()
    signer = Signer(SECRET, clock)
    sealed, until = signer.seal(purpose, "x"), int(clock.now + VALID[purpose])
    clock.now += age
    if clock.now <= until:
        assert signer.open(purpose, sealed) == "x"
        return
    with pytest.raises(ExpiredMessage, match=f"found a {purpose} that expired .* s ago") as caught:
        signer.open(purpose, sealed)
    assert caught.value.body == "x"


@EACH
def test_what_is_forged_and_late_is_forged(purpose: Purpose) -> None:
    """Its content must not be believed for having a date."""
    clock = Clock()
    signer = Signer(SECRET, clock)
    envelope = json.loads(signer.seal(purpose, "x"))
    clock.now += 2 * VALID[purpose]
    for change in ({"body": "y"}, {"expires": envelope["expires"] + 1}, {"mac": "0" * 64}):
        with pytest.raises(ForgedMessage):
            signer.open(purpose, json.dumps(envelope | change))


# -- the secret ------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, SHORTEST - 1])
def test_a_short_secret_is_none(length: int) -> None:
    secret = "Geheimnis-lang-genug"[:length]
    with pytest.raises(UsageError, match=f"has {length} characters, expected at least") as caught:
        Signer(secret)
    assert "openssl rand" in str(caught.value)
    assert len(secret) < 2 or secret not in str(caught.value)


def test_the_shortest_one_that_is() -> None:
    Signer("x" * SHORTEST)
