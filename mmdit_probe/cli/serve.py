"""mmdit-probe serve."""

from __future__ import annotations

from dataclasses import replace

from mmdit_probe.configs import ModelConfig, ServeConfig

from .layers import check_layers, resolve_layers
from .session import label, load
from .terminal import say, say_loading


def serve(config: ServeConfig, model: ModelConfig) -> None:
    """A page in the browser that runs the model: a prompt or an image in, overlays of its words out.

    Word, layer, timestep and heads are chosen on the page; the explorer page and the report can be downloaded.
    Only this machine reaches it unless --host says otherwise. Ctrl-C ends it.

    Needs Gradio: pip install "mmdit-probe[app]".
    """
    check_layers(config.layers, model)
    say_loading()
    from mmdit_probe.app import Reader, gradio
    from mmdit_probe.app import serve as serve_page

    gradio()
    pipe = load(model)
    if config.layers is not None:
        config = replace(config, layers=resolve_layers(pipe, config.layers))
    serve_page(Reader(pipe, config, label(model)), config, lambda address: say(f"{address}  (Ctrl-C ends it)"))
