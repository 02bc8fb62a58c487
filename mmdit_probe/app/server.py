"""Serving the page."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..configs.serve import ServeConfig
from .page import CSS, make_page
from .reader import Reader


def gradio() -> Any:
    """The module gradio, which then sends nothing about its use; `ValueError` if it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise ValueError("serve needs Gradio 6: pip install 'mmdit-probe[app]'") from error
    return gradio


def serve(reader: Reader, config: ServeConfig, told: Callable[[str], None]) -> None:
    """Serve the page until the program is interrupted; ``told`` is given its address.

    Nothing is fetched from elsewhere, and nothing stays: pages that users made are removed at the end.

    Raises:
        ValueError: Gradio is not installed, or nothing can listen at that address.
    """
    gr = gradio()
    with tempfile.TemporaryDirectory(prefix="mmdit-probe-") as folder:
        page = make_page(gr, reader, Path(folder))
        address = _launched(gr, page, config, folder)
        try:
            told(address)
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            pass
        finally:
            page.close(verbose=False)


def _launched(gr: Any, page: Any, config: ServeConfig, folder: str) -> str:
    """Start the server; its address."""
    try:
        _, address, _ = page.queue(api_open=False).launch(
            server_name=config.host,
            server_port=config.port,
            inbrowser=config.browser,
            css=CSS,
            theme=gr.themes.Default(primary_hue="blue"),
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=[],
            run_history=False,
            mcp_server=False,
            ssr_mode=False,
            enable_monitoring=False,
            allowed_paths=[folder],
        )
    except OSError as error:
        place = f"{config.host}:{config.port}" if config.port else config.host
        raise ValueError(
            f"serve: nothing can listen on {place}; choose another --port or --host, or give none"
        ) from error
    return str(address)
