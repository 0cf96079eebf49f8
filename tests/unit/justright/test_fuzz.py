"""Whatever is in a file or comes over the wire: it is read, or refused in words of ours."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.storages import JournalStorage

from justright.client.targets import read_arguments, read_target
from justright.errors import ForgedMessage, MessageError, StorageError, UsageError
from justright.messages import decode
from justright.signing import Signer
from justright.spec import StudySpec, make_spec
from orchestrator.dashboard.server import open_for_reading
from orchestrator.storage.journal import GroupCommitJournal
from orchestrator.storage.ledger import Ledger, open_ledger
from tests.helpers.commands import SIGNER
from tests.helpers.examples import tries
from tests.unit.worker.checkpoints.test_checkpoints import a_state, signed
from worker.checkpoints.format import Damaged, pack, unpack
from worker.parent.child_process import Output

some = settings(
    max_examples=tries(100),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
DEEP = 100_000
MANY_DIGITS = "9" * 5000


def mutations(raw: bytes) -> st.SearchStrategy[bytes]:
    """The same with a few bytes changed, a piece cut out, doubled or put in, or its end gone."""
    places = st.integers(0, len(raw))
    edits = st.lists(st.tuples(places, places, st.binary(max_size=8)), min_size=1, max_size=4)

    def edited(changes: list[tuple[int, int, bytes]]) -> bytes:
        found = raw
        for start, end, piece in changes:
            found = found[:start] + piece + found[max(start, min(end, start + 40)) :]
        return found

    doubled = st.tuples(places, places).map(lambda p: raw[: p[0]] + raw[min(p) : max(p)] + raw)
    return st.one_of(edits.map(edited), places.map(lambda at: raw[:at]), doubled)


# -- messages and signatures -----------------------------------------------------------------------

_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_A_JOB = (
    b'{"v":1,"type":"job","id":"j","study":"s","task":{"target":"/a/t.py:T","arguments":{"a":1}},'
    b'"epochs":3,"place":"s-1","trials":[{"number":0,"lr":0.1,"params":{},"seed":0,"attempt":1}]}'
)


@some
@given(raw=st.binary() | st.text() | _JSON.map(json.dumps) | mutations(_A_JOB))
@example(raw="[" * DEEP)
@example(raw='{"type":"job","epochs":' + MANY_DIGITS + "}")
@example(raw='{"type":"report","loss":1e999}')
@example(raw='"\\ud800"')
@example(raw="")
def test_a_message(raw: str | bytes) -> None:
    try:
        message = decode(raw)
    except MessageError as error:
        said = str(error)
        assert len(said) < 1000
        assert "\n" not in said
        return
    assert decode(message.encode()) == message


_SEALED = SIGNER.seal("job", "x").encode()


@some
@given(raw=st.binary() | st.text() | _JSON.map(json.dumps) | mutations(_SEALED))
@example(raw="[" * DEEP)
@example(raw=_SEALED.replace(b'"expires":', b'"expires":' + MANY_DIGITS.encode()))
@example(raw=_SEALED.replace(b'"expires":', b'"expires":' + b"9" * 4000))
@example(raw=_SEALED.replace(b'"mac":"', b'"mac":"\\ud800'))
@example(raw=_SEALED.replace(b'"body":"', b'"body":"\\ud800'))
def test_an_envelope(raw: str | bytes) -> None:
    try:
        assert SIGNER.open("job", raw) == "x"
    except ForgedMessage:
        return
    assert json.loads(raw) == json.loads(_SEALED), "it says the same, with other spaces"


@some
@given(body=st.text(), fields=_JSON)
def test_an_envelope_of_other_fields(body: str, fields: Any) -> None:
    envelope = json.loads(Signer("x" * 20).seal("command", body))
    more = fields if isinstance(fields, dict) else {"mac": fields}
    for raw in (json.dumps(envelope | more), json.dumps(fields)):
        with pytest.raises(ForgedMessage):
            SIGNER.open("command", raw)


# -- the journal -----------------------------------------------------------------------------------


def a_journal() -> bytes:
    """What a study leaves behind."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.log"
        journal = GroupCommitJournal(path)
        study = optuna.create_study(storage=JournalStorage(journal), study_name="s")
        study.set_user_attr("spec", {"name": "s"})
        for value in (0.5, 0.25):
            trial = study.ask({"lr": FloatDistribution(1e-6, 10.0, log=True)})
            trial.report(value, 1)
            study.tell(trial, value)
        journal.close()
        return path.read_bytes()


JOURNAL = a_journal()


def opened(path: Path, then: Callable[[Ledger], None] = lambda ledger: None) -> bool:
    """Open it as the orchestrator does; False: refused, in our words, and the file is as it was."""
    before = path.read_bytes()
    try:
        ledger = open_ledger(str(path))
    except StorageError as error:
        said = str(error)
        assert str(path) in said
        # A last line that was torn may be gone: nobody had relied on it.
        assert before.startswith(path.read_bytes())
        assert path.read_bytes().count(b"\n") == before.count(b"\n")
        return False
    then(ledger)
    ledger.close()
    return True


@some
@given(
    raw=st.binary()
    | mutations(JOURNAL)
    | st.lists(_JSON.map(json.dumps)).map(lambda lines: "\n".join(lines).encode() + b"\n")
)
@example(raw=b"[" * DEEP + b"\n")
@example(raw=b'{"op_code":' + MANY_DIGITS.encode() + b"}\n")
@example(raw=b'{"op_code":1e999}\n')
@example(raw=b'{"op_code":NaN}\n')
@example(raw=b'{"op_code":77,"worker_id":"w"}\n')
@example(raw=b'{"op_code":0}\n')
@example(raw=b'{"op_code":4,"worker_id":"w","study_id":99}\n')
@example(raw=b"\n\n")
def test_a_journal(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "journal.log"
    path.write_bytes(raw)
    if opened(path):
        assert opened(path), "what was opened once is opened again"


@some
@given(number=st.integers(0), fields=st.dictionaries(st.text(max_size=9), _JSON, max_size=2))
def test_a_journal_with_other_fields(tmp_path: Path, number: int, fields: dict[str, Any]) -> None:
    lines = [json.loads(line) for line in JOURNAL.splitlines()]
    entry = lines[number % len(lines)]
    if fields:
        entry.update(zip(entry, fields.values(), strict=False))
        entry.update(fields)
    else:
        entry.pop(sorted(entry)[number % len(entry)])
    path = tmp_path / "journal.log"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    opened(path)


@some
@given(cut=st.integers(0, len(JOURNAL)), again=st.integers(0, 200))
def test_a_journal_with_a_torn_tail(tmp_path: Path, cut: int, again: int) -> None:
    """Whole lines are kept, the torn one is cut off, and writing goes on."""
    path = tmp_path / "journal.log"
    path.write_bytes(JOURNAL[:cut])
    whole = JOURNAL[:cut].rpartition(b"\n")[0]
    assert opened(path)
    assert path.read_bytes().rstrip(b"\n") == whole

    def write(ledger: Ledger) -> None:
        ledger.create("later", {"state": "running", "spec": {}})

    assert opened(path, write)
    after = path.read_bytes()
    assert after.startswith(whole)
    path.write_bytes(after[: max(len(whole) + 1, len(after) - again)])
    assert opened(path)


@some
@given(raw=st.binary() | mutations(JOURNAL))
@example(raw=b"[" * DEEP + b"\n")
@example(raw=b'{"op_code":1e999}\n')
@pytest.mark.parametrize("named", [False, True])
def test_a_journal_in_the_dashboard(tmp_path: Path, named: bool, raw: bytes) -> None:
    from justright.settings import Settings

    path = tmp_path / "journal.log"
    path.write_bytes(raw)
    values = {"storage": str(path)} if named else {"state": tmp_path}
    try:
        open_for_reading(Settings.model_validate(values)).get_all_studies()
    except StorageError as error:
        said = str(error)
        assert str(tmp_path) in said


# -- the study file and the command line -----------------------------------------------------------

_STUDY = b"""
name = "s"
task = "t.py:T"
lr = "1e-5:1"
trials = 20
timeout = 3.5
lanes = "auto"
pool = "gpu"
[set]
hidden = 64
"""
_KEYS = st.sampled_from([*StudySpec.model_fields, "set", "command", "workers"]) | st.text()


def toml_of(table: dict[str, Any]) -> str:
    """As far as TOML can: JSON's values are TOML's, but for null, tables and numbers like 1e5."""
    return "".join(f"{json.dumps(key)} = {json.dumps(value)}\n" for key, value in table.items())


def read_study(path: Path) -> None:
    """As ``tune`` does: a spec, or words for whoever wrote the file."""
    try:
        values = read_target([str(path)], is_command=False)
        values.pop("workers", None)
        assert isinstance(make_spec({"name": "s", **values}), StudySpec)
    except UsageError as error:
        said = str(error)
        assert said


@some
@given(
    raw=st.binary()
    | mutations(_STUDY)
    | st.text().map(str.encode)
    | st.dictionaries(_KEYS, _JSON, max_size=4).map(toml_of).map(str.encode)
    | st.text(max_size=400).map(lambda text: toml_of({"task": text + ".py:T"}).encode())
    | st.text(max_size=400).map(lambda text: toml_of({"task": text}).encode())
)
@example(raw=b"trials = " + MANY_DIGITS.encode())
@example(raw=b"name = 0x" + b"f" * 5000)
@example(raw=b"seed = 0x" + b"f" * 5000)
@example(raw=b"lanes = 0x" + b"f" * 5000)
@example(raw=b"lr = [0x" + b"f" * 5000 + b", 1]")
@example(raw=b"name = " + b"[" * DEEP)
@example(raw=b"set = 1979-05-27")
@example(raw=b'task = "a\\u0000b.py:T"')
@example(raw=b'task = "a\\u0000b:T"')
@example(raw=b'task = "~nobody-of-that-name/t.py:T"')
@example(raw=b'task = "' + b"a" * 300 + b'.py:T"')
@example(raw=b'task = "' + b"a" * 300 + b':T"')
@example(raw=b'task = "folder.py:T"')
@example(raw=b'task = "deep.py:T"')
@example(raw=b'task = "null.py:T"')
def test_a_study_file(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "t.py").write_text("class T: pass")
    (tmp_path / "deep.py").write_text("(" * 500 + "1" + ")" * 500)
    (tmp_path / "null.py").write_bytes(b"class T: \0")
    (tmp_path / "folder.py").mkdir(exist_ok=True)
    path = tmp_path / "study.toml"
    path.write_bytes(raw)
    read_study(path)


@some
@given(parts=st.lists(st.text(), max_size=2), values=st.dictionaries(_KEYS, _JSON, max_size=3))
@example(parts=["a\0.py:T"], values={})
@example(parts=["a\0.toml"], values={})
@example(parts=["~nobody-of-that-name/t.py:T"], values={})
@example(parts=["x" * 300 + ".toml"], values={})
@example(parts=["x" * 5000 + ".py"], values={"name": "s"})
def test_what_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: list[str], values: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    for is_command in (False, True):
        try:
            make_spec({"name": "s", **read_target(parts, is_command=is_command), **values})
        except UsageError as error:
            said = str(error)
            assert said
    try:
        make_spec(values)
    except UsageError as error:
        said = str(error)
        assert said


@some
@given(value=st.text() | _JSON.map(json.dumps))
@example(value=MANY_DIGITS)
@example(value="[" * DEEP)
@example(value="0x" + "f" * 5000)
def test_a_value_of_set(value: str) -> None:
    found = read_arguments([f"key={value}"])
    assert isinstance(found["key"], (bool, int, float, str))


# -- checkpoints -----------------------------------------------------------------------------------

CHECKPOINT = pack(a_state())
_CONTENT = CHECKPOINT.partition(b"\n")[2]


def old_format() -> bytes:
    buffer = io.BytesIO()
    torch.save(a_state(), buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@some
@given(raw=st.binary() | mutations(CHECKPOINT))
def test_a_checkpoint(raw: bytes) -> None:
    if raw == CHECKPOINT:
        return
    with pytest.raises(Damaged):
        unpack(raw)


@settings(some, max_examples=tries(300))
@given(content=st.binary() | mutations(_CONTENT) | mutations(old_format()))
@example(content=b"")
@example(content=b"PK\x03\x04")
@example(content=b"\x80\x02}q\x00.")
@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_whose_checksum_was_made_to_fit(content: bytes) -> None:
    """Whoever writes to the store can make one: it may be read as a state, or is damaged."""
    try:
        assert isinstance(unpack(signed(content)), dict)
    except Damaged as error:
        said = str(error)
        assert said
        assert "\n" not in said


# -- what a training prints ------------------------------------------------------------------------


@some
@given(pieces=st.lists(st.binary(max_size=3000) | st.text().map(str.encode), max_size=30))
@example(pieces=[b"x" * 70_000, "é".encode()[:1]])
@example(pieces=[b"\n" * 9000])
@example(pieces=[b"y" * 8192, b"z", b"z" * 8191])
def test_the_last_lines_of_what_was_printed(pieces: list[bytes]) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe:
        output = Output(pipe)
        kept = b""
        for piece in pieces:
            if piece:
                output._take(piece)
            kept += piece
            assert sum(map(len, output._recent)) < 3 * 8192, "however much is printed"
        lines = kept[-8192:].decode("utf-8", "replace").splitlines()[-30:]
        assert output.tail() == "\n".join(lines)
        output.begin_job()
        assert output.tail() == ""
    os.close(writing)
