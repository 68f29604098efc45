"""QuPath-style GeoJSON of annotated regions."""

import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

_COLOURS = {"tumour": [200, 0, 0], "stroma": [150, 200, 150]}
_OTHER = [128, 128, 128]


def _feature(index: int, name: str, rings: Sequence[Sequence[tuple[int, int]]]) -> dict:
    closed = [[[int(x), int(y)] for x, y in [*ring, ring[0]]] for ring in rings]
    geometry = {"type": "Polygon", "coordinates": closed}
    digest = hashlib.sha256(json.dumps([index, name, closed]).encode()).digest()
    return {
        "type": "Feature",
        "id": str(uuid.UUID(bytes=digest[:16])),
        "geometry": geometry,
        "properties": {
            "objectType": "annotation",
            "classification": {"name": name, "color": _COLOURS.get(name, _OTHER)},
        },
    }


def write_geojson(path: Path, polygons: Sequence[tuple[str, Sequence[Sequence[tuple[int, int]]]]]) -> None:
    """Write regions (class name, rings) as a GeoJSON FeatureCollection that QuPath imports.

    rings[0] is the exterior, the others are holes, as open lists of level-0 (x, y); the file closes them.
    The bytes depend on the polygons alone; the target is replaced only by a whole file. Raises OSError.
    """
    path = Path(path)
    features = [_feature(index, name, rings) for index, (name, rings) in enumerate(polygons)]
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
