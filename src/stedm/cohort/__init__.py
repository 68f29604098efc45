"""Cohorts: where slides, annotations, patients, classes and splits come from."""

from stedm.cohort.base import Cohort, MaskImage, Polygon, Slide, load_cohort, read_manifest
from stedm.cohort.budget import labelled_patients

__all__ = ["Cohort", "MaskImage", "Polygon", "Slide", "labelled_patients", "load_cohort", "read_manifest"]
