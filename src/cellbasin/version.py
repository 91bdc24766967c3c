"""The version, stored with every result; read from the installed package's metadata."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("cellbasin")
except PackageNotFoundError:
    VERSION = "0+source"
