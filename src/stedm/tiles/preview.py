"""Small pictures that show what was cut from a slide."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

MAX_SIDE = 700
MAX_BYTES = 150_000
INK, PAPER, FAINT = (38, 38, 38), (255, 255, 255), (110, 110, 110)
SMALL = 40
"""Side in pixels of the mean annotated area below which outlines are thin, as they would cover it."""
TISSUE, DIMMED = (60, 60, 60), (150, 150, 150)
COLOURS = ((213, 94, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233))
"""Okabe and Ito's colours, which are told apart with any colour vision."""
SCALES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)


def overview(
    picture: np.ndarray,
    label: np.ndarray,
    tissue: np.ndarray,
    tiles: Sequence[tuple[int, int]],
    *,
    classes: Sequence[str],
    tile: float,
    title: str = "",
    mpp: float | None = None,
) -> bytes:
    """Draw a slide with its tissue, its stored tiles and its layout.

    Parameters
    ----------
    picture
        uint8 (h, w, 3), RGB, the whole slide; drawn at most 700 pixels long.
    label
        uint8, of any resolution: 0 where there is no annotated class, 1… the classes.
    tissue
        bool, of any resolution.
    tiles
        Column and row of each stored tile on the grid.
    classes
        Names in the order of their labels; the legend lists those that the slide has.
    tile
        Side of a tile in pixels of the picture.
    title
        Stands above the picture.
    mpp
        µm per pixel of the picture, for the scale bar; None where unknown.

    Returns
    -------
    png
        A PNG file of at most 150 kB; equal for equal input.
    """
    shown = [n for n in range(1, len(classes) + 1) if (label == n).any()]
    legend = [(classes[n - 1], COLOURS[(n - 1) % len(COLOURS)]) for n in shown]
    data = b""
    for side, colours in ((MAX_SIDE, 200), (MAX_SIDE, 96), (560, 64), (430, 48), (320, 32), (220, 32)):
        factor = min(side / max(picture.shape[:2]), 4.0)
        width, height = (max(1, round(n * factor)) for n in picture.shape[1::-1])
        # Enlarging a small image shows its pixels as they are.
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST
        image = cv2.resize(picture, (width, height), interpolation=method)
        dimmed = _shade_unstored(image, tiles, tile * factor)
        _outline(image, tissue, TISSUE, 1)
        for thickness in (4, 2) if _extent(label) * max(image.shape) > SMALL else (1,):
            for n, (_, colour) in zip(shown, legend, strict=True):
                _outline(image, label == n, PAPER if thickness == 4 else colour, thickness)
        framed = _framed(image, legend, title, len(tiles), dimmed, None if mpp is None else mpp / factor)
        buffer = io.BytesIO()
        framed.quantize(palette=_palette(framed, colours), dither=0).save(buffer, "PNG", optimize=True)
        data = buffer.getvalue()
        if len(data) <= MAX_BYTES:
            break
    return data


def _extent(label: np.ndarray) -> float:
    """Return the side of the mean annotated area, as a part of the longer side of the slide."""
    count = cv2.connectedComponents((label > 0).astype(np.uint8))[0] - 1
    return float(np.sqrt((label > 0).sum() / max(count, 1))) / max(label.shape)


def _palette(canvas: Any, colours: int) -> Any:
    """Return a palette of the picture's own colours and of those of text and lines."""
    from PIL import Image

    fixed = [INK, PAPER, FAINT, TISSUE, DIMMED, *COLOURS]
    own = canvas.quantize(colours - len(fixed)).getpalette()[: 3 * (colours - len(fixed))]
    palette = Image.new("P", (1, 1))
    palette.putpalette(own + [part for colour in fixed for part in colour])
    return palette


def _shade_unstored(image: np.ndarray, tiles: Sequence[tuple[int, int]], side: float) -> bool:
    stored = np.zeros(image.shape[:2], bool)
    lines = np.zeros(image.shape[:2], bool)
    for column, row in tiles:
        x0, y0, x1, y1 = (round(n * side) for n in (column, row, column + 1, row + 1))
        stored[y0:y1, x0:x1] = True
        lines[y0:y1, x0 : x0 + 1] = lines[y0 : y0 + 1, x0:x1] = True
        lines[y0:y1, x1 : x1 + 1] = lines[y1 : y1 + 1, x0:x1] = True
    image[~stored] = (image[~stored].astype(np.float32) * 0.55 + np.float32(DIMMED) * 0.45).astype(np.uint8)
    if side >= 4:
        image[lines] = (image[lines].astype(np.float32) * 0.82).astype(np.uint8)
    return not stored.all()


def _outline(image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], thickness: int) -> None:
    size = (image.shape[1], image.shape[0])
    large = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5
    # A rim keeps the outline closed where the area touches the edge of the picture.
    rim = cv2.copyMakeBorder(large.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    contours, _ = cv2.findContours(rim, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(-1, -1))
    cv2.drawContours(image, contours, -1, colour, thickness, cv2.LINE_AA)


def _framed(
    image: np.ndarray,
    legend: Sequence[tuple[str, tuple[int, int, int]]],
    title: str,
    count: int,
    dimmed: bool,
    mpp: float | None,
) -> Any:
    from PIL import Image, ImageDraw, ImageFont

    height, width = image.shape[:2]
    font, small = (ImageFont.truetype(_font(), points) for points in (14, 12))
    margin, head = 14, 34
    entries = [*legend, ("tissue", TISSUE), *([("not stored", DIMMED)] if dimmed else [])]
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    text = f"{count} tiles stored" if count != 1 else "1 tile stored"
    bar = _bar(width, mpp)
    rows: list[list[tuple[str, tuple[int, int, int], float]]] = [[]]
    full = max(width, 260)
    x = 0.0
    for name, colour in entries:
        needed = 24 + probe.textlength(name, small) + 18
        if rows[-1] and x + needed > full:
            rows.append([])
            x = 0.0
        rows[-1].append((name, colour, x))
        x += needed
    foot = 14 + 20 * len(rows) + (34 if bar else 8)
    canvas = Image.new("RGB", (full + 2 * margin, head + height + foot), PAPER)
    canvas.paste(Image.fromarray(image), (margin, head))
    draw = ImageDraw.Draw(canvas)
    aside = probe.textlength(text, small)
    draw.text((margin, 9), _fitted(probe, title, font, full - aside - 16), INK, font)
    draw.text((margin + full - aside, 11), text, FAINT, small)
    top = head + height + 12
    for n, row in enumerate(rows):
        for name, colour, left in row:
            y = top + 20 * n
            thickness = {TISSUE: 1, DIMMED: 9}.get(colour, 3)
            draw.line((margin + left, y + 8, margin + left + 18, y + 8), colour, thickness)
            draw.text((margin + left + 24, y), name, INK, small)
    if bar:
        length, words = bar
        y = top + 20 * len(rows) + 10
        draw.line((margin, y, margin + length, y), INK, 3)
        draw.text((margin + length + 8, y - 8), words, INK, small)
    return canvas


def _font() -> str:
    import matplotlib

    # The font that Pillow brings has no µ.
    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


def _bar(width: int, mpp: float | None) -> tuple[int, str] | None:
    if mpp is None:
        return None
    fitting = [n for n in SCALES if n / mpp <= width / 3]
    micrometres = fitting[-1] if fitting else SCALES[0]
    words = f"{micrometres} µm" if micrometres < 1000 else f"{micrometres // 1000} mm"
    return round(micrometres / mpp), words


def _fitted(probe: Any, text: str, font: Any, width: float) -> str:
    if probe.textlength(text, font) <= width:
        return text
    while text and probe.textlength(text + "…", font) > width:
        text = text[:-1]
    return text + "…"
