"""Handwritten digits (scikit-learn's, 8 × 8 pixels): a small MLP, CNN and transformer."""

import torch
from sklearn.datasets import load_digits

import justright


class Digits(justright.Task):
    """An MLP: justright tune examples/digits.py:Digits"""

    epochs = 30
    batch_size = 64
    optimizer = "sgd"
    hidden = 64

    def __init__(self, **settings):
        super().__init__(**settings)
        pixels, classes = load_digits(return_X_y=True)
        order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))
        self.inputs = torch.tensor(pixels, dtype=torch.float32)[order] / 16
        self.targets = torch.tensor(classes)[order]

    def model(self):
        return torch.nn.Sequential(
            torch.nn.Linear(64, self.hidden),
            torch.nn.ReLU(),
            torch.nn.Linear(self.hidden, 10),
        )

    def train_data(self):
        return self.inputs[:1200], self.targets[:1200]

    def validation_data(self):
        return self.inputs[1200:], self.targets[1200:]

    def loss(self, output, target):
        # Smoothed labels: without them, a handful of hard digits decides the validation loss.
        return torch.nn.functional.cross_entropy(output, target, label_smoothing=0.1)


class DigitsCNN(Digits):
    """A CNN with BatchNorm and dropout: justright tune examples/digits.py:DigitsCNN"""

    epochs = 15
    optimizer = "adamw"
    channels = 16

    def model(self):
        nn, width = torch.nn, self.channels
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(8 * width, 10),
        )


class DigitsTransformer(Digits):
    """A small transformer over the rows: justright tune examples/digits.py:DigitsTransformer"""

    epochs = 10
    optimizer = "adamw"
    schedule = "cosine"
    width = 32

    def model(self):
        return Rows(self.width)


class Rows(torch.nn.Module):
    """Reads the 8 rows of an image as a sequence."""

    def __init__(self, width):
        super().__init__()
        self.embed = torch.nn.Linear(8, width)
        self.place = torch.nn.Parameter(0.02 * torch.randn(8, width))
        layer = torch.nn.TransformerEncoderLayer(
            width, nhead=4, dim_feedforward=2 * width, batch_first=True, norm_first=True
        )
        self.encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = torch.nn.Linear(width, 10)

    def forward(self, images):
        rows = self.embed(images.view(-1, 8, 8)) + self.place
        return self.head(self.encoder(rows).mean(dim=1))
