"""Labelled images in the styles of unlabelled patients, drawn by a generator."""
