"""Names of metrics that rise while they are minimized."""

from __future__ import annotations

import pytest

from justright.rising import rises, rising_warning

# fmt: off
UP = (
    "accuracy", "acc", "val_acc", "valAcc", "Acc@1", "top-1", "top1_acc", "mAP", "mAP@0.5", "F1",
    "macro-f1", "roc_auc", "ROC-AUC", "R2", "r^2", "mean_iou", "mIoU", "BLEU", "precision",
    "test/recall", "log_likelihood", "eval.exact_match", "PSNR", "episode_reward",
)
DOWN = (
    "loss", "val_loss", "f1-error", "error_rate", "accuracy_loss", "neg_log_likelihood", "nll",
    "1-accuracy", "1_minus_acc", "perplexity", "rmse", "wer", "inaccuracy", "accumulated",
    "mapping", "epoch", "score_error", "accelerator",
)
# fmt: on


@pytest.mark.parametrize("name", [*UP, "validation accuracy", "Top 1 Acc"])
def test_it_rises(name: str) -> None:
    assert rises(name)
    assert f"1 - {name}" in rising_warning(name, "the program prints")


@pytest.mark.parametrize("name", [*DOWN, ""])
def test_it_falls_or_nobody_knows(name: str) -> None:
    assert not rises(name)
