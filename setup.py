"""Builds the package `nested_vnet` from inference/, evaluation/ and weights/; all else is in pyproject.toml.

In the repository and in the image the folders are `inference` and `evaluation`. Installed, they are
`nested_vnet` and `nested_vnet.evaluation`, because other projects on PyPI have those names. inference/
imports itself by relative names and stays as it is. evaluation/ imports inference/ by name: the build
changes that name.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

IMPORT = re.compile(r"^(\s*)(from|import) (inference|evaluation)\b", re.MULTILINE)
INSTALLED = {"inference": "nested_vnet", "evaluation": "nested_vnet.evaluation"}


class BuildPackage(build_py):
    """Copies modules as usual, then renames what they import."""

    def build_module(self, module, module_file, package):
        """Copy one module into the build folder."""
        target, copied = super().build_module(module, module_file, package)
        path = Path(target)
        text = path.read_text(encoding="utf-8")
        path.write_text(
            IMPORT.sub(lambda found: f"{found[1]}{found[2]} {INSTALLED[found[3]]}", text), encoding="utf-8"
        )
        return target, copied


def packages(folder: str, name: str) -> list[str]:
    """The package of a folder and all packages within."""
    return [name, *(f"{name}.{inner}" for inner in find_packages(folder))]


setup(
    packages=[
        *packages("inference", "nested_vnet"),
        *packages("evaluation", "nested_vnet.evaluation"),
        "nested_vnet.weights",
    ],
    package_dir={
        "nested_vnet": "inference",
        "nested_vnet.evaluation": "evaluation",
        "nested_vnet.weights": "weights",
    },
    package_data={"": ["*"]},  # weights, flags, pages: whatever lies in a package's folder
    exclude_package_data={"": ["*.pyc"]},
    cmdclass={"build_py": BuildPackage},
)
