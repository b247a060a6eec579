"""Files that tests of several commands read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.optimizer.tiny_models import TwoParts, make


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of the model that ``two_parts`` is made of, as it was."""
    path = tmp_path_factory.mktemp("plain") / "plain.pt"
    torch.jit.save(torch.jit.script(make(TwoParts)), str(path), _extra_files={"notes.txt": "plain"})
    return path
