"""`python -m inference`."""

import os
import signal

for _number in (signal.SIGTERM, signal.SIGINT):
    # while PyTorch is imported there is nothing to finish; as a container's first process it must say so
    signal.signal(_number, lambda number, frame: os._exit(128 + number))

from .cli import main  # noqa: E402

if __name__ == "__main__":
    main(prog_name="python -m inference")
