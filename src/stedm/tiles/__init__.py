"""Tiles: slides are cut once into a tile store, which all later stages read."""

from stedm.tiles.store import EMPTY, OUTSIDE, StoredSlide, StoreWriter, TileStore

__all__ = ["EMPTY", "OUTSIDE", "StoreWriter", "StoredSlide", "TileStore"]
