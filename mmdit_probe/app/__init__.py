"""The app: a page in the browser that runs a model and shows where its words are. Needs Gradio (``mmdit-probe[app]``)."""

from .page import make_page
from .reader import Reader, View
from .server import gradio, serve

__all__ = ["Reader", "View", "gradio", "make_page", "serve"]
