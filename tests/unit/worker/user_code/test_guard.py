"""What is shown of where a training hangs: the user's own frames."""

from __future__ import annotations

import os

from worker.user_code.guard import HOUSE, users_frames

STACKS = f"""epoch 1
Thread 0x00007f01 (most recent call first):
  File "{HOUSE}/worker/jobs/channel.py", line 90 in _serve
  File "{os.__file__}", line 90 in run

Current thread 0x00007f02 (most recent call first):
  File "/home/me/train.py", line 7 in validate
  File "/lib/site-packages/torch/module.py", line 3 in call
  File "/home/me/train.py", line 3 in main
  File "{HOUSE}/worker/jobs/runner.py", line 90 in run
"""


def test_only_the_users_frames_are_shown() -> None:
    assert users_frames(STACKS).split("\n") == [
        "epoch 1",
        "",
        "Current thread 0x00007f02 (most recent call first):",
        '  File "/home/me/train.py", line 7 in validate',
        '  File "/home/me/train.py", line 3 in main',
    ]


def test_a_program_has_none_in_the_process_that_runs_it() -> None:
    ours = STACKS.partition("Current")[0].removeprefix("epoch 1\n")
    assert users_frames(ours) == ""
