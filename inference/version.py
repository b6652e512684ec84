"""Name and version of the product, as reports and DICOM objects tell them: this one place."""

NAME = "nested-vnet-kits19"
__version__ = "0.1.0"
