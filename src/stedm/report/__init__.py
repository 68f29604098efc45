"""From scores and previews to what people read: tables, figures, claims and one HTML page. No torch, no GPU."""

from stedm.report.build import build_report
from stedm.report.text import headline_text

__all__ = ["build_report", "headline_text"]
