"""Outlines of a binary mask as simple rings that never touch one another."""

import numpy as np

Ring = list[tuple[int, int]]


def trace(mask: np.ndarray) -> tuple[list[Ring], list[list[Ring]]]:
    """Trace the regions of a bool mask (h, w) whose border is False, by its 4-connected regions.

    Returns the exteriors and, for each, its holes. Rings run through the middles of the pixel edges, in half
    pixels: pixel (x, y) covers [2x, 2x + 2) x [2y, 2y + 2).
    """
    names, headings, width = _edges(mask)
    following = _following(names, headings, width).tolist()
    ring_of = np.full(len(names), -1, np.int32)
    rings: list[np.ndarray] = []
    for start in range(len(following)):
        if ring_of[start] >= 0:
            continue
        members, edge = [start], following[start]
        while edge != start:
            members.append(edge)
            edge = following[edge]
        ring_of[members] = len(rings)
        rings.append(np.array(members))

    points = np.stack([names % width, names // width], axis=1)
    return _nest([points[ring] for ring in rings], rings, ring_of)


def _edges(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Edges between region and rest, the region at the right hand.

    Returns ascending names (edges,) int64, y * width + x of the edge's middle in half pixels, their headings
    as steps of a name, and the width.
    """
    width = 2 * mask.shape[1] + 1
    above, below, before, after = mask[:-1], mask[1:], mask[:, :-1], mask[:, 1:]
    names, headings = [], []
    for where, top, left, heading in (
        (below & ~above, 2, 1, 1),
        (above & ~below, 2, 1, -1),
        (after & ~before, 1, 2, -width),
        (before & ~after, 1, 2, width),
    ):
        ys, xs = np.nonzero(where)
        names.append((2 * ys + top) * width + 2 * xs + left)
        headings.append(np.full(len(ys), heading, np.int64))
    joined = np.concatenate(names)
    order = np.argsort(joined, kind="stable")
    return joined[order], np.concatenate(headings)[order], width


def _following(names: np.ndarray, headings: np.ndarray, width: int) -> np.ndarray:
    """Index of the edge that follows each edge, int64 (edges,)."""
    # A name's step is 1 or the width, so a right turn maps east to south, south to west and so on.
    right = np.where(np.abs(headings) == 1, headings * width, -headings // width)
    following = np.full(len(names), -1, np.int64)
    # Right turn last, so that it wins: regions that meet at a corner only stay apart.
    for turned in (-right, headings, right):
        wanted = names + headings + turned
        index = np.minimum(np.searchsorted(names, wanted), max(len(names) - 1, 0))
        there = (names[index] == wanted) & (headings[index] == turned)
        following[there] = index[there]
    return following


def _nest(
    outlines: list[np.ndarray], members: list[np.ndarray], ring_of: np.ndarray
) -> tuple[list[Ring], list[list[Ring]]]:
    exteriors: list[Ring] = []
    holes: list[list[Ring]] = []
    owner: dict[int, int] = {}
    leftmost = [int(np.lexsort((points[:, 1], points[:, 0]))[0]) for points in outlines]
    by_left = sorted(range(len(outlines)), key=lambda ring: tuple(outlines[ring][leftmost[ring]]))
    # From left to right: what lies to the left of a hole has been placed before it.
    for ring in by_left:
        points = outlines[ring]
        x, y = points[:, 0], points[:, 1]
        if (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() > 0:
            owner[ring] = len(exteriors)
            exteriors.append(_corners(points))
            holes.append([])
        else:
            # Names ascend along a row, so the edge before a hole's leftmost one bounds the region around it.
            beside = int(ring_of[members[ring][leftmost[ring]] - 1])
            owner[ring] = owner[beside]
            holes[owner[ring]].append(_corners(points))
    return exteriors, holes


def _corners(points: np.ndarray) -> Ring:
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    bends = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    return [(x, y) for x, y in points[bends].tolist()]
