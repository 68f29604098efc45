"""How one patient's tissue looks: small integers drawn from a hash, one set per patient."""

from dataclasses import dataclass

from stedm.errors import UserError
from stedm.phantom.fixed import ANGLES, key


@dataclass(frozen=True, slots=True)
class Style:
    """The look of one patient; every field is an integer, so equal styles paint equal pixels.

    Concentrations are in 1/256 optical density (natural logarithm), weights and shares in 1/256, lengths in
    quarter paint pixels (0.125 um at 0.25 um/px), angles in 1/1024 turns.
    """

    score: int
    """HER2 score 0..3."""

    # Colour
    haem_vector: tuple[int, int, int]
    """Haematoxylin, optical density in red, green, blue per unit of stain, 1/256."""
    dab_vector: tuple[int, int, int]
    """Diaminobenzidine (brown), the same."""
    ground_vector: tuple[int, int, int]
    """Counterstained ground (cytoplasm and fibres), the same."""
    haem_strength: int
    """Scale of the haematoxylin concentrations, percent."""
    dab_strength: int
    """Scale of the DAB concentrations, percent."""
    ground_strength: int
    """Scale of the ground concentrations, percent."""
    white: tuple[int, int, int]
    """White balance: brightness of bare glass in red, green, blue, 1/256 of full scale."""

    # Tumour texture
    radius: int
    """Mean radius of a tumour nucleus."""
    elongation: int
    """Long over short axis of a tumour nucleus, 1/256 (256 is round)."""
    size_spread: int
    """Half range of the radius between nuclei, percent."""
    pitch: int
    """Distance of neighbouring tumour cells."""
    nuclear_haem: int
    """Haematoxylin in tumour nuclei."""
    vesicle: int
    """How pale the middle of a tumour nucleus is, 0..256."""
    nucleolus: int
    """Extra haematoxylin in nucleoli."""
    grain: int
    """Contrast of the chromatin, 0..256."""
    grain_scale: int
    """Grain of the chromatin, paint pixels."""
    membrane_dab: int
    """DAB in membranes."""
    membrane_width: int
    """Width of a membrane."""
    completeness: int
    """Share of the rings that is stained, 0..256."""
    tumour_ground: int
    """Ground stain in tumour cytoplasm."""
    tumour_dab: int
    """DAB in tumour cytoplasm."""
    tumour_haem: int
    """Haematoxylin in tumour cytoplasm."""
    vacuoles: int
    """Share of the tumour that is vacuoles, 0..256."""
    vacuole_scale: int
    """Size of a vacuole, paint pixels."""

    # Stroma texture
    direction: int
    """Direction of the fibres."""
    waviness: int
    """Amplitude of the fibres' waves."""
    fibre_width: int
    """Width of a fibre."""
    fibre_length: int
    """Length of a fibre."""
    fibre_contrast: int
    """Contrast of the fibres, 0..256."""
    clefts: int
    """Share of the stroma that is empty, 0..256."""
    stroma_ground: int
    """Ground stain in stroma."""
    stroma_dab: int
    """DAB in stroma (unspecific background)."""
    stroma_haem: int
    """Haematoxylin between the nuclei of the stroma."""
    stroma_radius: int
    """Short half axis of a stroma nucleus."""
    stroma_elongation: int
    """Long over short axis of a stroma nucleus, 1/256."""
    stroma_pitch: int
    """Distance of stroma nuclei across the fibres."""
    cellularity: int
    """Share of the places in the stroma that hold a nucleus, 0..256."""
    stroma_nuclear_haem: int
    """Haematoxylin in stroma nuclei."""

    # Optics
    blur: int
    """Passes of the focus blur, 0..8."""
    noise: int
    """Camera noise, 1/16 grey level."""


_COLOUR = {
    # field: (middle, half range) at colour=100
    "haem_vector": ((166, 179, 74), (40, 36, 40)),
    "dab_vector": ((75, 146, 192), (36, 38, 48)),
    "ground_vector": ((105, 130, 95), (62, 46, 60)),
    "haem_strength": (100, 40),
    "dab_strength": (100, 35),
    "ground_strength": (100, 45),
    "white": ((243, 243, 243), (10, 9, 12)),
}
"""How far patients differ in colour: the main knob for how much stain shifts hurt."""

_TEXTURE = {
    "radius": (33, 11),
    "elongation": (320, 64),
    "size_spread": (16, 9),
    "crowding": (142, 30),
    "nuclear_haem": (225, 100),
    "vesicle": (95, 100),
    "nucleolus": (90, 90),
    "grain": (110, 90),
    "grain_scale": (4, 2),
    "membrane_factor": (95, 40),
    "membrane_width": (10, 4),
    "completeness_shift": (0, 48),
    "tumour_ground": (80, 75),
    "tumour_dab": (18, 34),
    "tumour_haem": (32, 40),
    "vacuoles": (10, 24),
    "vacuole_scale": (12, 5),
    "direction": (0, ANGLES // 2),
    "waviness": (60, 50),
    "fibre_width": (20, 11),
    "fibre_length": (150, 80),
    "fibre_contrast": (110, 105),
    "clefts": (26, 50),
    "stroma_ground": (85, 80),
    "stroma_dab": (30, 75),
    "stroma_haem": (34, 60),
    "stroma_radius": (19, 8),
    "stroma_elongation": (520, 330),
    "stroma_pitch": (80, 32),
    "cellularity": (160, 110),
    "stroma_nuclear_haem": (235, 100),
    "blur": (3, 3),
    "noise": (20, 12),
}
"""How far patients differ in what colour jitter cannot reach: (middle, half range) at texture=100."""

_SCORES = {
    # score: (membrane DAB, completeness of the rings)
    0: (12, 40),
    1: (110, 105),
    2: (250, 185),
    3: (460, 256),
}

_SMALLEST = {
    "radius": 20,
    "elongation": 256,
    "crowding": 108,
    "grain_scale": 2,
    "membrane_width": 4,
    "vacuole_scale": 5,
    "fibre_width": 8,
    "fibre_length": 40,
    "stroma_radius": 9,
    "stroma_elongation": 256,
    "stroma_pitch": 44,
    "haem_strength": 40,
    "dab_strength": 40,
    "ground_strength": 20,
    "nuclear_haem": 90,
    "stroma_nuclear_haem": 90,
}

_LARGEST = {
    "radius": 48,
    "crowding": 180,
    "cellularity": 256,
    "vesicle": 210,
    "grain": 256,
    "fibre_contrast": 256,
    "vacuoles": 60,
    "clefts": 110,
    "stroma_elongation": 1000,
    "blur": 8,
    "noise": 40,
}


def _draw(seed: int, patient: int, name: str, middle: int, reach: int, percent: int) -> int:
    value = middle
    if name != "direction":
        reach = reach * percent // 100
        value += key(seed, "style", patient, name) % (2 * reach + 1) - reach
    elif percent:
        value = key(seed, "style", patient, name) % (2 * reach)
    return min(max(value, _SMALLEST.get(name, 0)), _LARGEST.get(name, 1 << 30))


def patient_style(seed: int, patient: int, score: int, *, colour: int = 100, texture: int = 100) -> Style:
    """Draw one patient's look from (seed, patient); the score sets how strong and complete membranes are.

    `colour` and `texture` are percentages (0..200) of how far patients differ in stain vectors, stain
    strengths and white balance, and in everything else: at 0 and 0 two patients of one score are alike.

    Raises UserError when score is not 0..3, or a percentage not 0..200.
    """
    if score not in _SCORES:
        raise UserError(f"HER2 score is {score}; it must be 0, 1, 2 or 3.")
    for name, value in (("colour", colour), ("texture", texture)):
        if not 0 <= value <= 200:
            raise UserError(f"{name} is {value}; it must be between 0 and 200 percent.")

    values: dict[str, int | tuple[int, ...]] = {}
    for name, (middle, reach) in _COLOUR.items():
        if isinstance(middle, tuple):
            parts = [_draw(seed, patient, f"{name}.{band}", middle[band], reach[band], colour) for band in range(3)]
            low, high = (200, 250) if name == "white" else (8, 255)
            values[name] = tuple(min(max(part, low), high) for part in parts)
        else:
            values[name] = _draw(seed, patient, name, middle, reach, colour)
    for name, (middle, reach) in _TEXTURE.items():
        values[name] = _draw(seed, patient, name, middle, reach, texture)

    # A nucleus wider than its place would be cut straight.
    values["stroma_radius"] = min(values["stroma_radius"], values["stroma_pitch"] * 2 // 5)
    dab, complete = _SCORES[score]
    values["pitch"] = 2 * values["radius"] * values.pop("crowding") // 100
    values["membrane_dab"] = dab * values.pop("membrane_factor") // 100
    values["completeness"] = min(max(complete + values.pop("completeness_shift"), 0), 256)
    return Style(score=score, **values)
