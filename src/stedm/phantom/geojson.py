"""QuPath-style GeoJSON of annotated regions."""

import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

_COLOURS = {"tumour": [200, 0, 0], "stroma": [150, 200, 150]}
_OTHER = [128, 128, 128]


def feature(
    index: int,
    name: str | None,
    rings: Sequence[Sequence[tuple[float, float]]],
    *,
    kind: str = "annotation",
    colour: Sequence[int] | None = None,
    measurements: Mapping[str, float] | None = None,
) -> dict:
    """Return a GeoJSON feature in QuPath's manner.

    `name` is the class, `kind` QuPath's type of object (annotation, detection, tile). rings[0] is the exterior,
    the others are holes, as open lists of level-0 (x, y). The feature's id follows from index, name and rings.
    """
    closed = [[[x, y] for x, y in [*ring, ring[0]]] for ring in rings]
    digest = hashlib.sha256(json.dumps([index, name, closed]).encode()).digest()
    properties: dict = {"objectType": kind}
    if name is not None:
        properties["classification"] = {"name": name, "color": list(colour or _COLOURS.get(name, _OTHER))}
    if measurements:
        properties["measurements"] = dict(measurements)
    return {
        "type": "Feature",
        "id": str(uuid.UUID(bytes=digest[:16])),
        "geometry": {"type": "Polygon", "coordinates": closed},
        "properties": properties,
    }


def write_geojson(path: Path, polygons: Sequence[tuple[str, Sequence[Sequence[tuple[int, int]]]]]) -> None:
    """Write regions (class name, rings) as a GeoJSON FeatureCollection that QuPath imports.

    rings[0] is the exterior, the others are holes, as open lists of level-0 (x, y); the file closes them.
    The bytes depend on the polygons alone; the target is replaced only by a whole file. Raises OSError.
    """
    features = []
    for index, (name, rings) in enumerate(polygons):
        features.append(feature(index, name, [[(int(x), int(y)) for x, y in ring] for ring in rings]))
    write_features(path, features)


def write_features(path: Path, features: Sequence[dict]) -> None:
    """Write features as a FeatureCollection, whole or not at all. Raises OSError."""
    path = Path(path)
    collection = {"type": "FeatureCollection", "features": features}
    text = json.dumps(collection, sort_keys=True, separators=(",", ":"))
    handle, part = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="ascii", newline="\n") as file:
            file.write(text + "\n")
        mask = os.umask(0)
        os.umask(mask)
        Path(part).chmod(0o666 & ~mask)
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
