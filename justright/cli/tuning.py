"""A ``tune`` on the command line: what is seen of it, and what ends it."""

from __future__ import annotations

import sys
from contextlib import ExitStack

from justright.cli.live import View, make_view
from justright.cli.packages import load_package
from justright.cli.signals import Terminated, ignore_signals, raise_on_signals
from justright.client.tune import Watcher, tune
from justright.messages import Snapshot
from justright.spec import StudySpec


def run(spec: StudySpec, *, workers: int | None, quiet: bool) -> Snapshot:
    """Tune on all GPUs of this machine; stopped by a signal, say how it goes on."""
    gpus = load_package("worker.main").visible_gpus()
    terminal = _Terminal(quiet)
    raise_on_signals()
    try:
        return tune(spec, gpus=gpus, workers=workers, watcher=terminal)
    except (KeyboardInterrupt, Terminated):
        if terminal.kept:
            sys.stderr.write(
                f"\nstopped; to go on: justright resume {spec.name} (or the same command with "
                f"--name {spec.name})\n"
            )
        raise


class _Terminal(Watcher):
    """Shows the study from when all runs until it ends, and then is not to be disturbed."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._view: View | None = None
        self._shown = ExitStack()
        self.kept = False

    def started(self) -> None:
        self._view = self._shown.enter_context(make_view(self._quiet))

    def show(self, snapshot: Snapshot) -> None:
        if self._view is not None:
            self._view.show(snapshot)

    def ending(self) -> None:
        ignore_signals()
        self._shown.close()
        if isinstance(sys.exc_info()[1], (KeyboardInterrupt, Terminated)):
            sys.stderr.write("\nstopping: each trial saves where it is; this takes some seconds\n")

    def ended(self, kept: bool) -> None:
        self.kept = kept
