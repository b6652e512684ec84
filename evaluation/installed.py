"""What the extra 'evaluate' installs, missed before the work and not after it."""

from importlib.util import find_spec


def check_installed(module: str, purpose: str) -> None:
    """Say before the work that a package of the extra 'evaluate' is needed.

    Args:
        module: what will be imported.
        purpose: what it is needed for.

    Raises:
        ValueError: it is not installed.
    """
    if find_spec(module) is None:
        name = module.replace("_", "-")
        raise ValueError(f"{purpose} needs {name}. Install it: pip install '.[evaluate]' in the clone")
