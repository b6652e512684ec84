"""Kidneys and kidney tumors in CT: the library's front door.

    from inference import load_cascade, read_ct, segment, write_label_map

    ct = read_ct("ct.nii.gz")
    result = segment(ct.hu, ct.spacing_mm, load_cascade())
    write_label_map("labels.nii.gz", result.labels, ct.native)

`read_ct` reads label maps too, and so takes any values: `check_hounsfield("ct.nii.gz", ct.hu)` refuses what
can be no CT, as the command does. What stands behind a name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

if TYPE_CHECKING:
    from .formats.ct import read_ct as read_ct
    from .formats.ct import write_label_map as write_label_map
    from .formats.volume import check_hounsfield as check_hounsfield
    from .method.method import DEFAULT as DEFAULT
    from .method.method import PAPER as PAPER
    from .method.method import Method as Method
    from .method.segment import segment as segment
    from .networks.cascade import load_cascade as load_cascade

_ROOMS = {
    "read_ct": "formats.ct",
    "write_label_map": "formats.ct",
    "check_hounsfield": "formats.volume",
    "DEFAULT": "method.method",
    "PAPER": "method.method",
    "Method": "method.method",
    "segment": "method.segment",
    "load_cascade": "networks.cascade",
}

__all__ = [
    "DEFAULT",
    "PAPER",
    "Method",
    "__version__",
    "check_hounsfield",
    "load_cascade",
    "read_ct",
    "segment",
    "write_label_map",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_ROOMS[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
