"""Mutations of what users import and both sides share."""

from __future__ import annotations

from tests.mutate.mutation import Mutation

_HERE = "tests/unit/justright/test_local_and_client.py"
_COMMANDS = "tests/unit/orchestrator/test_commands.py"

MUTATIONS = (
    Mutation(
        "the study's lock is never taken", "justright/local/study_folder.py",
        "            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)", "            pass",
        (_HERE,),
    ),
    Mutation(
        "all may read the secret", "justright/local/study_folder.py",
        "            beside.touch(mode=0o600)", "            beside.touch(mode=0o644)", (_HERE,),
    ),
    Mutation(
        "a client waits for ever", "justright/client/submit.py",
        "if time.monotonic() - alone_since > _ALONE:", "if False:", (_HERE,),
    ),
    Mutation(
        "a clock is never wrong", "justright/cli/doctor.py",
        "        apart < _CLOCK_TOLERANCE,\n", "        True,\n", (_HERE,),
    ),
    Mutation(
        "a refused command was done", "justright/client/asking.py",
        "    if reply.done:", "    if True:", (_COMMANDS,),
    ),
    Mutation(
        "names have few letters", "justright/client/targets.py",
        "_SUFFIX, _LETTERS = 8,", "_SUFFIX, _LETTERS = 3,", (_HERE,),
    ),
    Mutation(
        "one secret is like another", "justright/signing.py",
        "found = hmac.new(self._key, b\"justright fingerprint\", hashlib.sha256)",
        "found = hmac.new(b\"\", b\"justright fingerprint\", hashlib.sha256)", (_HERE,),
    ),
)  # fmt: skip
