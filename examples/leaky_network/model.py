"""LeNet-5 with leaky ReLUs in PyTorch, and the scans of handwritten digits that it learns."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

#: Of LeNet's input, as in the seed's MNIST sample.
SIDE = 28
NUM_CLASSES = 10
#: The seed's ``neg_slope``.
NEG_SLOPE = 0.1

#: Of the data set, each such scan is kept for testing.
_TEST_EVERY = 5
_MAX_INTENSITY = 16.0
_EPOCHS = 8
_BATCH_SIZE = 64
_LEARNING_RATE = 2e-3


class LeakyLeNet(nn.Module):
    """Two convolutions and two fully connected layers: ``Tensor[N, 1, 28, 28]`` to probabilities ``Tensor[N, 10]``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 5)
        self.conv2 = nn.Conv2d(16, 32, 5)
        self.fc1 = nn.Linear(32 * 4 * 4, 128)
        self.fc2 = nn.Linear(128, NUM_CLASSES)

    def logits(self, images: Tensor) -> Tensor:
        """Before the softmax."""
        x = functional.max_pool2d(functional.leaky_relu(self.conv1(images), NEG_SLOPE), 2)
        x = functional.max_pool2d(functional.leaky_relu(self.conv2(x), NEG_SLOPE), 2)
        return self.fc2(functional.leaky_relu(self.fc1(x.flatten(1)), NEG_SLOPE))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images).softmax(dim=1)


def load_scans() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """scikit-learn's 1,797 scans, enlarged from 8 x 8.

    Returns:
        Training images ``Tensor[n, 1, 28, 28]``, float32 in 0..1, and their digits, int64; then those for testing.
    """
    scans, digits = load_digits(return_X_y=True)
    small = torch.from_numpy(scans.astype(np.float32) / _MAX_INTENSITY).reshape(-1, 1, 8, 8)
    images = functional.interpolate(small, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    labels = torch.from_numpy(digits.astype(np.int64))
    is_test = torch.arange(len(labels)) % _TEST_EVERY == 0
    return images[~is_test], labels[~is_test], images[is_test], labels[is_test]


def train(images: Tensor, labels: Tensor) -> LeakyLeNet:
    """A trained network in evaluation mode, on the CPU; seconds on two cores."""
    torch.manual_seed(0)
    model = LeakyLeNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=_LEARNING_RATE)
    for _ in range(_EPOCHS):
        for batch in torch.randperm(len(labels)).split(_BATCH_SIZE):
            loss = functional.cross_entropy(model.logits(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()
