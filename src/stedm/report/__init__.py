"""From scores and previews to what people read: tables, figures, claims and one HTML page. No torch, no GPU."""

from typing import Any

__all__ = ["build_report", "headline_text"]


def __getattr__(name: str) -> Any:
    # Printing a headline must not wait for the drawing libraries.
    if name == "build_report":
        from stedm.report.build import build_report

        return build_report
    if name == "headline_text":
        from stedm.report.text import headline_text

        return headline_text
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
