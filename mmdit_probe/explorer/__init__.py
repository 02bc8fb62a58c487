"""The explorer: one picture's attention as a self-contained HTML page."""

from .contents import Contents, contents_of
from .measure import measure_exploration
from .page import Page, make_page

__all__ = ["Contents", "Page", "contents_of", "make_page", "measure_exploration"]
