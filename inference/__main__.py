"""`python -m inference`."""

import os
import signal

for _number in (signal.SIGTERM, signal.SIGINT):
    # during imports there is nothing to finish: exit at once. A container's first process ignores
    # signals that it does not handle
    signal.signal(_number, lambda number, frame: os._exit(128 + number))

from .cli import main  # noqa: E402

if __name__ == "__main__":
    main(prog_name="python -m inference")
