from __future__ import annotations

from tests.unit.conftest import _disks_are_quick as _disks_are_quick
