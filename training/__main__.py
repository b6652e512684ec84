"""`python -m training prepare DATA CACHE` and `python -m training train PRESET CACHE OUT [INITIAL]`."""

import sys
from pathlib import Path

from training.config import PRESETS
from training.prepare import prepare
from training.train import train

if __name__ == "__main__":
    match sys.argv[1:]:
        case ["prepare", data, cache]:
            print(*prepare(Path(data), Path(cache)), sep="\n")
        case ["train", preset, cache, out, *initial]:
            start = Path(initial[0]) if initial else None
            print(train(PRESETS[preset], Path(cache), Path(out), initial=start, progress=False))
        case _:
            sys.exit(__doc__)
