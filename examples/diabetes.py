"""Regression on scikit-learn's diabetes data: justright tune examples/diabetes.py:Diabetes"""

import torch
from sklearn.datasets import load_diabetes

import justright


class Diabetes(justright.Task):
    """Predicts how a disease progresses, in units of its standard deviation."""

    epochs = 40
    batch_size = 32
    optimizer = "adam"
    hidden = 32

    def model(self):
        return torch.nn.Sequential(
            torch.nn.Linear(10, self.hidden), torch.nn.Tanh(), torch.nn.Linear(self.hidden, 1)
        )

    def _data(self):
        inputs, targets = load_diabetes(return_X_y=True)
        inputs, targets = (torch.tensor(part, dtype=torch.float32) for part in (inputs, targets))
        order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))
        inputs, targets = inputs[order] / inputs.std(dim=0), targets[order]
        return inputs, (targets - targets.mean()) / targets.std()

    def train_data(self):
        inputs, targets = self._data()
        return inputs[:353], targets[:353]

    def validation_data(self):
        inputs, targets = self._data()
        return inputs[353:], targets[353:]

    def loss(self, output, target):
        return torch.nn.functional.mse_loss(output.squeeze(1), target)
