"""`python -m inference`."""

import os
import signal
import sys

for _number in (signal.SIGTERM, signal.SIGINT):
    # during imports there is nothing to finish: exit at once. A container's first process ignores
    # signals that it does not handle
    signal.signal(_number, lambda number, frame: os._exit(128 + number))

# a daemon may have closed these: the next file that is opened would take their place
while (_spare := os.open(os.devnull, os.O_RDWR)) <= 2:
    pass
os.close(_spare)
if sys.stderr is None:
    sys.stderr = open(2, "w")  # noqa: SIM115

# label maps are mostly zeros that nobody writes: in large pages they would take memory all the same
os.environ.setdefault("NUMPY_MADVISE_HUGEPAGE", "0")

from .cli import main, report  # noqa: E402

if __name__ == "__main__":
    if sys.argv[1:2] == ["report"]:
        report(sys.argv[2:], prog_name="python -m inference report")
    main(prog_name="python -m inference")
