"""``python -m torch_trt_ext`` is the command ``torch-trt-ext``."""

import sys

from torch_trt_ext.cli import main

if __name__ == "__main__":
    sys.exit(main())
