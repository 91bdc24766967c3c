"""The network for other programs: ONNX, and packages of the BioImage Model Zoo."""

from cellbasin.export.bioimage import write_package
from cellbasin.export.onnx import ExportError, write_onnx

__all__ = ["ExportError", "write_onnx", "write_package"]
