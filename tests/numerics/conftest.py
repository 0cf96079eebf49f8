from __future__ import annotations

from tests.unit.conftest import _disks_are_quick as _disks_are_quick
from tests.unit.worker.checkpoints.test_checkpoints import each_batch as each_batch
from tests.unit.worker.checkpoints.test_checkpoints import restored as restored
from tests.unit.worker.checkpoints.test_checkpoints import task as task
from tests.unit.worker.checkpoints.test_checkpoints import whole as whole
