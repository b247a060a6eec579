"""What several test files of this folder need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch computes in one thread: on few cores its threads and OpenVINO's wait for each other, for milliseconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def two_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of a model with two engines for 4 rows and an operator of PyTorch's between, and an extra file."""
    from tests.optimizer.tiny_models import TwoParts, make, optimize

    path = tmp_path_factory.mktemp("two_parts") / "model.pt"
    optimized, _, report = optimize(make(TwoParts), [(torch.rand(4, 8),)])
    assert len(report["engines"]) == 2
    torch.jit.save(optimized, str(path), _extra_files={"notes.txt": "made by hand"})
    return path
