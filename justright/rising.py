"""Names of metrics that rise as a training goes better, while justright looks for the lowest."""

from __future__ import annotations

import re
from itertools import pairwise

# fmt: off
_RISES = frozenset((
    "acc", "accuracy", "accuracies", "acc1", "acc5", "accuracy1", "top1", "top5", "auc", "auroc",
    "roc", "auprc", "aupr", "prauc", "ap", "map", "map50", "f1", "f2", "fbeta", "fscore", "f1score",
    "precision", "recall", "sensitivity", "specificity", "r2", "r2score", "bleu", "sacrebleu",
    "chrf", "rouge", "rouge1", "rouge2", "rougel", "meteor", "cider", "spice", "iou", "miou",
    "jaccard", "dice", "psnr", "ssim", "mcc", "kappa", "ndcg", "mrr", "hits", "em", "correct",
    "reward", "rewards", "elbo", "pearson", "spearman", "win", "winrate",
))
_PAIRS = frozenset(
    ("exact match", "success rate", "hit rate", "log likelihood", "episode return")
)
#: Such a word beside it turns it around: an error falls, whatever it is the error of.
_FALLS = frozenset((
    "loss", "losses", "error", "errors", "err", "neg", "negative", "minus", "inverse", "inverted",
    "one", "1", "nll", "cost", "wrong", "mis", "distance", "complement", "gap",
))
# fmt: on


def words_of(name: str) -> list[str]:
    """The words of a name, folded: case, spaces, dashes, dots, slashes and humps do not count."""
    humps = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return [word for word in re.split(r"[\W_]+", humps.lower()) if word]


def rises(name: str) -> bool:
    """Whether a metric of that name is usually the better the higher it is."""
    words = words_of(name)
    if _FALLS.intersection(words[:-1]) and not _numbered(words):
        return False
    if not words or words[-1] in _FALLS - {"1"}:
        return False
    pairs = {" ".join(pair) for pair in pairwise(words)}
    whole = {"".join(pair) for pair in pairwise(words)}
    return bool(_RISES.intersection({*words, *whole}) or _PAIRS.intersection(pairs))


def _numbered(words: list[str]) -> bool:
    """ "top 1 accuracy" and "acc 1" count something; "1 - accuracy" turns it around."""
    return words[0] != "1" and _FALLS.intersection(words) <= {"1"}


def rising_warning(name: str, whose: str) -> str:
    """What to tell somebody whose metric of that name is being minimized.

    ``whose``: who has given it, as a sentence begins: "the objective returns".
    """
    return (
        f"{whose} {name!r}, which rises as a training goes better, and justright looks for the "
        f"LOWEST value: it would answer the worst rate. Turn it around, for example 1 - {name}, or "
        "use a loss."
    )
