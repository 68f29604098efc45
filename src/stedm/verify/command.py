"""`stedm verify`: which results are verified, and where what is found goes."""

from __future__ import annotations

from pathlib import Path

from stedm.config import load_config
from stedm.errors import UserError
from stedm.verify.evidence import verify
from stedm.verify.published import FILE, show_published
from stedm.verify.records import DIFFERS
from stedm.verify.reference import Reference
from stedm.verify.show import sign as append_signature
from stedm.verify.show import text, write_files


def verify_results(
    config: Path | None = None,
    *,
    everything: bool = False,
    sign: bool = False,
    out: Path | None = None,
    root: Path = Path(),
) -> tuple[str, bool]:
    """Verify the recorded result of a configuration, or all; write JSON and page.

    Parameters
    ----------
    config
        Configuration; None for all results.
    everything
        All results; not with `config`.
    sign
        Append the outcome to ``REPRODUCED.md``.
    out
        Folder of ``verification.json`` and ``.html``; by default that of the view, ``results`` for all results.
    root
        The project's root.

    Returns
    -------
    The text for a terminal, and whether nothing differs.

    Raises
    ------
    UserError
        If there is no recorded result, or it is faulty.
    """
    if config is not None and everything:
        raise UserError(f"--all: {config} is one result; name it or give --all, not both.")
    recorded = root / "results" / "reference"
    if config is None:
        folders = sorted(path.parent for path in recorded.glob("*/scores.parquet"))
        if not folders:
            raise UserError(f"{recorded}: no recorded result; record one with `stedm record`.")
        references = [Reference(folder, root) for folder in folders]
    else:
        references = [Reference(recorded / load_config(config).name, root, config)]
    records = [record for reference in references for record in verify(reference)]
    records, unmatched = show_published(records, root / FILE)
    names = [reference.name for reference in references]
    out = out or root / "results" / ("" if config is None else names[0])
    files = write_files(out, records, "Verification of " + ", ".join(names))
    lines = [text(records, unmatched), f"Written: {' and '.join(map(str, files))}"]
    if sign:
        lines.append(f"Signed: {append_signature(root, names, records)}")
    return "\n".join(lines), all(record.state != DIFFERS for record in records)
