"""Files: read images and labels, find them in folders, write results; every file whole or not at all."""

from cellbasin.atomic import WriteError, atomic

from .coco import write_coco
from .errors import ReadError
from .find import LABEL_SUFFIXES, Record, find_images, find_pairs, image_stem, natural_key, read_index
from .outputs import OUTPUTS, Output, check_dimensions, check_outputs, save
from .overlay import display, flow_colours, overlay
from .read import SUFFIXES, count_positions, is_zarr, read_frames, read_image, read_labels, read_pixels
from .seg import Seg, outline_pixels, read_seg, write_seg
from .vector_read import read_outlines_text, read_rois
from .vector_write import write_geojson, write_outlines_text, write_rois
from .write import write_flows, write_labels, write_overlay, write_parquet, write_picture, write_table

__all__ = [
    "LABEL_SUFFIXES",
    "OUTPUTS",
    "SUFFIXES",
    "Output",
    "ReadError",
    "Record",
    "Seg",
    "WriteError",
    "atomic",
    "check_dimensions",
    "check_outputs",
    "count_positions",
    "display",
    "find_images",
    "find_pairs",
    "flow_colours",
    "image_stem",
    "is_zarr",
    "natural_key",
    "outline_pixels",
    "overlay",
    "read_frames",
    "read_image",
    "read_index",
    "read_labels",
    "read_outlines_text",
    "read_pixels",
    "read_rois",
    "read_seg",
    "save",
    "write_coco",
    "write_flows",
    "write_geojson",
    "write_labels",
    "write_outlines_text",
    "write_overlay",
    "write_parquet",
    "write_picture",
    "write_rois",
    "write_seg",
    "write_table",
]
