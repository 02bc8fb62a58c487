"""The page: prompt or image in, overlays out, with word, layer, timestep and heads to choose."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..configs.setting import LARGEST_SEED
from ..tracing import Seen
from .reader import (
    ALL_HEADS,
    MEAN,
    Reader,
    View,
    first_view,
    heads_of,
    layer_pictures,
    overlay_of,
    picture_of,
    says,
    table_of,
    words_of,
    write_pages,
)

TITLE = "mmdit-probe"
_INTRODUCTION = (
    "# mmdit-probe\n"
    "Where each word of a prompt is looked at: how much of its attention every part of the image gives to it, "
    "in the layer, at the timestep and in the heads that you choose. Give a prompt to generate from; or an image, and a prompt "
    "that says what it shows. Model: {model}."
)
_EXAMPLES = ("a red circle on grass", "a blue square and a yellow star on sand", "a green triangle on snow")
_KEPT_SECONDS = 3600
_BUTTONS = ["download", "fullscreen"]
"""Of pictures: not Gradio's third, which uploads them."""
CSS = "#layers .grid-wrap { height: auto; max-height: none; min-height: 0 }"
"""The gallery of layers is as high as its rows."""


def make_page(gr: Any, reader: Reader, folder: Path) -> Any:
    """The page as Gradio's Blocks.

    Args:
        gr: the module gradio.
        reader: the model that is asked.
        folder: where the pages that users download are written, a folder of its own for each.
    """
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page:
        gr.Markdown(_INTRODUCTION.format(model=reader.model or type(reader.pipe).__name__))
        seen = gr.State(None, time_to_live=_KEPT_SECONDS)
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                asked = _inputs(gr, reader)
            with gr.Column(scale=3):
                shown = _outputs(gr)
        chosen = [shown[name] for name in ("word", "layer", "timestep", "heads", "smooth")]
        drawn = [shown[name] for name in ("overlay", "says", "layers")]
        controls = [*chosen[:4], *(shown[name] for name in ("image", "table", "why", "explorer", "files"))]
        run = _said(gr, lambda *given: _run(gr, reader, *given))
        draw = _said(gr, _draw)
        started = [asked["button"].click, asked["prompt"].submit]
        given = [asked[name] for name in ("prompt", "photo", "steps", "seed")]
        ran = gr.on(started, _with_progress(gr, run), given, [seen, *controls], concurrency_id="model")
        ran.success(draw, [seen, *chosen], drawn, show_progress="hidden")
        for control in chosen:
            control.input(draw, [seen, *chosen], drawn, show_progress="hidden")
        picked = shown["layers"].select(_picked(gr), seen, shown["layer"], show_progress="hidden")
        picked.success(draw, [seen, *chosen], drawn, show_progress="hidden")
        write = _said(gr, lambda found: _write(gr, found, folder))
        shown["button"].click(write, seen, [shown["explorer"], shown["files"]])
    return page


def _inputs(gr: Any, reader: Reader) -> dict[str, Any]:
    sampling = reader.config.sampling
    prompt = gr.Textbox(label="Prompt", lines=2, max_lines=6, value=_EXAMPLES[0], elem_id="prompt")
    gr.Examples([[text] for text in _EXAMPLES], prompt, label="Such as")
    photo = gr.Image(
        label="Or an image of yours",
        type="filepath",
        sources=["upload", "clipboard"],
        height=180,
        elem_id="photo",
    )
    with gr.Row():
        steps = gr.Number(sampling.steps, label="Sampling steps", precision=0, minimum=1, maximum=1000, min_width=100)
        seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=LARGEST_SEED, min_width=100)
    button = gr.Button("Run", variant="primary", elem_id="run")
    return {"prompt": prompt, "photo": photo, "steps": steps, "seed": seed, "button": button}


def _outputs(gr: Any) -> dict[str, Any]:
    with gr.Row():
        shown: dict[str, Any] = {"format": "png", "interactive": False, "height": 420, "buttons": _BUTTONS}
        image = gr.Image(label="Image", elem_id="image", **shown)
        overlay = gr.Image(label="Where the word is", elem_id="overlay", **shown)
    line = gr.Textbox(label="The overlay shows", interactive=False, elem_id="says")
    word = gr.Radio([], label="Word", elem_id="word")
    with gr.Row():
        layer = gr.Dropdown([], label="Layer", elem_id="layer", min_width=120)
        timestep = gr.Dropdown([], label="Timestep, from the clean end", elem_id="timestep", min_width=120)
        heads = gr.Dropdown([], label="Heads", elem_id="heads", min_width=120)
        smooth = gr.Checkbox(True, label="Smooth between tokens", elem_id="smooth", min_width=120)
    gr.Markdown("The word in each layer, on one color scale: click to choose one")
    layers = gr.Gallery(
        show_label=False,
        format="png",
        columns=6,
        height="auto",
        allow_preview=False,
        object_fit="contain",
        buttons=[],
        elem_id="layers",
    )
    with gr.Accordion("Every word, and what was read", open=False):
        table = gr.Dataframe(label="Shares of the image's attention", interactive=False, elem_id="words")
        why = gr.Textbox(label="What was read, and why", lines=3, max_lines=12, interactive=False)
    button = gr.Button("Make the explorer page and the report", elem_id="pages")
    label = "Each is one file that needs no server"
    files = gr.File(label=label, file_count="multiple", interactive=False, visible=False, elem_id="files")
    explorer = gr.HTML(elem_id="explorer")
    return {
        **{"image": image, "overlay": overlay, "says": line, "word": word, "layer": layer, "timestep": timestep},
        **{"heads": heads, "smooth": smooth, "layers": layers, "table": table, "why": why},
        **{"button": button, "files": files, "explorer": explorer},
    }


def _run(
    gr: Any, reader: Reader, tell: Callable[[int, int], None], prompt: str, photo: str | None, steps: float, seed: float
) -> tuple[Any, ...]:
    """Read an image, and set every control to what was read of it."""
    if steps is None or seed is None:
        raise ValueError("steps and seed: give both")
    if photo is None:
        seen = reader.generate(prompt, int(steps), int(seed), tell)
    else:
        seen = reader.read(Path(photo), prompt, int(steps), int(seed))
    view, expert = first_view(seen), seen.plan.defaults.expert_layer
    layers = [(f"{layer} (expert layer)" if layer == expert else str(layer), layer) for layer in seen.plan.layers]
    heads = [("all, their mean" if label == ALL_HEADS else label, label) for label in heads_of(seen)]
    unknown = [] if seen.text is not None else ["It is not known which token is which word in this model."]
    return (
        seen,
        gr.Radio(words_of(seen), value=view.word),
        gr.Dropdown([*layers, ("mean of these", MEAN)], value=view.layer),
        gr.Dropdown([(str(timestep), timestep) for timestep in sorted(seen.plan.timesteps)], value=view.timestep),
        gr.Dropdown(heads, value=ALL_HEADS),
        picture_of(seen),
        table_of(seen),
        "\n".join([*unknown, *seen.why]),
        "",
        gr.File(None, visible=False),
    )


def _draw(
    seen: Seen | None, word: str | None, layer: int | str, timestep: int, heads: str, smooth: bool
) -> tuple[Any, ...]:
    """The overlay of what is chosen, the line below it, and the word in each layer."""
    if seen is None:
        return None, "", []
    view = View(word, layer, timestep, heads, smooth)
    return overlay_of(seen, view), says(seen, view), layer_pictures(seen, view)


def _write(gr: Any, seen: Seen | None, folder: Path) -> tuple[str, Any]:
    """The explorer page in a frame, and the files."""
    if seen is None:
        raise ValueError("run a prompt first")
    explorer, report = write_pages(seen, folder / f"image-{len(list(folder.iterdir())) + 1}")
    page = html.escape(explorer.read_text(encoding="utf-8"))
    frame = f'<iframe srcdoc="{page}" style="width:100%;height:900px;border:0" title="explorer"></iframe>'
    return frame, gr.File([str(explorer), str(report)], visible=True)


def _picked(gr: Any) -> Callable[..., Any]:
    """The layer of the picture that was clicked."""

    def picked(seen: Seen | None, event: Any) -> Any:
        return None if seen is None else seen.plan.layers[event.index]

    picked.__annotations__["event"] = gr.SelectData
    return picked


def _with_progress(gr: Any, run: Callable[..., Any]) -> Callable[..., Any]:
    """``run`` with a function before its arguments that moves Gradio's bar."""

    bar = gr.Progress()

    def shown(prompt: str, photo: str | None, steps: float, seed: float, progress: Any = bar) -> Any:
        return run(lambda done, total: progress((done, total), unit="steps"), prompt, photo, steps, seed)

    return shown


def _said(gr: Any, act: Callable[..., Any]) -> Callable[..., Any]:
    """What the user can mend is told on the page, in one line."""

    def told(*given: Any) -> Any:
        try:
            return act(*given)
        except ValueError as error:
            raise gr.Error(html.escape(str(error)), duration=None, title="Not so", print_exception=False) from None

    return told
