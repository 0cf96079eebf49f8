"""Code that raises because a number is not finite: that trial is too hot, the others train on."""

from __future__ import annotations

from pathlib import Path

import pytest

from justright.lane_plan import LanePlan
from tests.helpers.lane_jobs import ALONE, LANES, TASK, assert_near, run, works

FORMS = '''

class Checks(Explosive):
    """Looks at its loss itself."""

    double = True

    def loss(self, output, target):
        loss = super().loss(output, target)
        if not torch.isfinite(loss):
            raise ValueError(f"loss is {float(loss)}")
        return loss


class Distribution(Explosive):
    """A distribution checks its arguments."""

    def loss(self, output, target):
        found = torch.distributions.Normal(output[:, 0], 1.0 + output[:, 1].exp())
        return -found.log_prob(target.to(output.dtype)).mean()


class Cholesky(Explosive):
    """A factor that does not exist."""

    def loss(self, output, target):
        spread = output.T @ output + torch.eye(3, dtype=output.dtype)
        torch.linalg.cholesky(spread)
        return super().loss(output, target)
'''
HOT = 1e6
RATES = (0.003, HOT, 0.01)


@pytest.mark.parametrize("plan", [LANES, ALONE], ids=["lanes", "alone"])
@pytest.mark.parametrize("name", ["Checks", "Distribution", "Cholesky"])
def test_the_trial_is_too_hot_and_its_neighbours_train_on(
    tmp_path: Path, name: str, plan: LanePlan
) -> None:
    task = tmp_path / "tiny.py"
    task.write_text(TASK + FORMS)
    ended = run(task, works(RATES), plan, name=name)
    assert ended.kinds == ["complete", "diverged", "complete"]
    (tmp_path / "apart").mkdir()
    other = tmp_path / "apart" / "tiny.py"
    other.write_text(TASK + FORMS)
    apart = run(other, works((RATES[0],)), ALONE, name=name)
    assert_near(dict(ended.outcomes[0].losses), dict(apart.outcomes[0].losses), 1e-9)


def test_a_fault_of_the_users_own_stays_one(tmp_path: Path) -> None:
    task = tmp_path / "tiny.py"
    task.write_text(
        TASK + "\n\nclass Wrong(Tiny):\n    def loss(self, output, target):\n"
        "        if torch.is_grad_enabled() and output.requires_grad and self.count() > 12:\n"
        "            raise KeyError('a key of mine')\n        return super().loss(output, target)\n"
        "    n = 0\n    def count(self):\n        Wrong.n += 1\n        return Wrong.n\n"
    )
    assert run(task, works((0.01,)), ALONE, name="Wrong").kinds == ["failed"]
