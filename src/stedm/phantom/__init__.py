"""Phantom cohort: HER2-like IHC slides drawn by code, with bytes that do not depend on the CPU.

All that a pixel goes through is integer arithmetic on hashes of its position, so a slide is the same for any
block size, order, thread count and processor.
"""

from stedm.phantom.geojson import write_geojson
from stedm.phantom.layout import layout_mask, layout_polygons
from stedm.phantom.paint import Painter
from stedm.phantom.pyramid import draw_slide
from stedm.phantom.style import Style, patient_style

__all__ = [
    "Painter",
    "Style",
    "draw_slide",
    "layout_mask",
    "layout_polygons",
    "patient_style",
    "write_geojson",
]
