"""Annotations from files, one module a format, all read into one kind of polygon."""

from stedm.cohort.annotations.check import check_polygons, mend_polygon, polygon_fault
from stedm.cohort.annotations.coco import read_coco
from stedm.cohort.annotations.exact import read_exact
from stedm.cohort.annotations.geojson import read_geojson
from stedm.cohort.annotations.imagescope import read_imagescope
from stedm.cohort.annotations.sliderunner import read_sliderunner

__all__ = [
    "check_polygons",
    "mend_polygon",
    "polygon_fault",
    "read_coco",
    "read_exact",
    "read_geojson",
    "read_imagescope",
    "read_sliderunner",
]
