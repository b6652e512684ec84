"""The version of the package, the image and the report: this one place."""

__version__ = "0.1.0"
