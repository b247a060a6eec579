"""Runs the Python of one page, its blocks in order and in one namespace: ``python -m tests.docs_run PAGE``.

What a block is marked to need and is not there (``<!-- needs: gpu -->``) is passed over. Errors have the page's lines.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.docs_pages import Block, blocks


def compiled(block: Block) -> Any:
    """The block's code, whose lines are those of the page: ``inspect``, which TorchScript reads, finds them there."""
    return compile("\n" * (block.line - 1) + block.text, str(block.page), "exec")


def main() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(Path(sys.argv[1])):
        if block.language == "python" and "needs" not in block.notes:
            print(f"-- {block.place}", flush=True)
            exec(compiled(block), namespace)


if __name__ == "__main__":
    main()
