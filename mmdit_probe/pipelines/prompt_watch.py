"""Which prompts a transformer call carries, and in which branch of guidance: from what the pipeline was given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..attention.text_tokens import TextTokens, join_rows
from ..families import Family, Pipeline, WithStep, denoiser_of, holds
from .asked import Asked, Half, filled_halves
from .call_watch import observed
from .encoded import CONDITIONAL, UNCONDITIONAL, CarriedPrompts, Encoded, recognized, text_embeddings, text_of
from .modular_steps import guided_branch

_NEGATIVE = "negative_"


class PromptWatch:
    """While open, notes what the pipelines of a transformer are asked for and encode, in the thread that opened it.

    Args:
        pipe: a pipeline; None if none is known.
        family: how its text positions are described.
        transformer: the module that is probed; None for the pipeline's own. Other pipelines that hold it are watched, too.

    ``generation`` counts the runs of the pipelines, and what is encoded outside of one after the transformer has run.
    ``caller`` is the pipeline that generates or encodes, or did so last; ``in_run`` whether one is generating.
    """

    def __init__(self, pipe: Pipeline | None, family: Family, transformer: Any = None) -> None:
        self.pipe, self.family = pipe, family
        self.transformer = denoiser_of(pipe) if transformer is None and pipe is not None else transformer
        self.caller: Pipeline | None = pipe
        self.generation = 0
        self._known: list[Encoded] = []
        self._halves: list[Half] = []  # of the latest encoding, if there was one alone
        self._encodings = 0  # since the generation began, of those that do not say whether they are guided
        self._used = True
        self._run: Mapping[str, Any] | None = None
        self._encoding = False
        self._recognizes = False  # whether a call's embeddings were recognized in this generation
        self._passed: list[
            Encoded
        ] = []  # as the transformer was last given it, if the pipeline changes what it encoded
        self._latest: tuple[Any, tuple[Any, ...], CarriedPrompts] | None = None
        self._exit: ExitStack | None = None

    def __enter__(self) -> PromptWatch:
        with ExitStack() as stack:
            stack.enter_context(observed(self, self.pipe))
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._exit is not None:
            self._exit.close()

    @property
    def in_run(self) -> bool:
        """Whether a pipeline is generating."""
        return self._run is not None

    def concerns(self, pipe: Any) -> bool:
        """Whether this pipeline's calls are those of the probed transformer; what it encodes within a call is not new."""
        return not self._encoding and (pipe is self.pipe or holds(pipe, self.transformer))

    @contextmanager
    def running(self, pipe: Any, arguments: Mapping[str, Any]) -> Iterator[None]:
        """Entered while a pipeline generates; a pipeline that calls itself is one run."""
        if self._run is not None:
            yield
            return
        self._begin()
        self.caller, self._run = pipe, arguments
        self._halves = filled_halves(self.family, pipe, arguments)
        try:
            yield
        finally:
            self._run = None
            self._known = [entry for entry in self._known if not entry.in_run]
            self._halves, self._passed, self._latest, self._used = [], [], None, True

    def _begin(self) -> None:
        """A new generation; what was encoded before is remembered as long as somebody keeps it."""
        self.generation += 1
        for entry in self._known:
            entry.loosen()
        self._known = [entry for entry in self._known if entry.held() is not None]
        self._halves, self._encodings, self._used = [], 0, False
        self._recognizes, self._passed, self._latest = False, [], None

    @contextmanager
    def encoding(self, pipe: Any, arguments: Mapping[str, Any], step: Any = None) -> Iterator[Callable[[Any], None]]:
        """Entered while a pipeline, or a modular one's step, encodes prompts; gives what takes the result."""
        if self._run is not None and self.family.filled is not None:
            yield lambda encoded: None  # what fills the batch is known from the call
            return
        if self._run is None and self._used:
            self._begin()
        self.caller, self._encoding = pipe, True
        given, branch = {name: _kept(value) for name, value in arguments.items()}, self._branch_by_run(arguments)

        def note(encoded: Any) -> None:
            asked = pipe if step is None else WithStep(pipe, step)
            known = dict(given)
            if step is not None:
                known["do_classifier_free_guidance"] = encoded[2] is not None
            halves = Asked(self.family, asked, known, branch, self._given).halves(self._encodings)
            self._note([self._seen(half, asked, known, encoded) for half in halves], encoded)

        try:
            yield note
        finally:
            self._encoding = False

    def _branch_by_run(self, arguments: Mapping[str, Any]) -> str | None:
        """The branch that these prompts have in the running pipeline's own arguments; None if they don't tell."""
        for name in ("prompt", "prompt_embeds") if self._run is not None else ():
            value = arguments.get(name)
            prompt, negative = (_is(value, (self._run or {}).get(key)) for key in (name, _NEGATIVE + name))
            if value is not None and prompt != negative:
                return CONDITIONAL if prompt else UNCONDITIONAL
        return None

    def _given(self, embeddings: Any) -> TextTokens | None:
        """What embeddings hold that the caller passes to a pipeline; None if they were not encoded while this is open."""
        batch = len(embeddings) if isinstance(embeddings, list | Tensor) else 0
        found = recognized(self._known, embeddings, batch)
        return None if found is None else text_of(self._known, found)

    def _seen(self, half: Half, pipe: Any, arguments: Mapping[str, Any], encoded: Any) -> Half:
        """With the number of text positions that images in the prompt fill."""
        if not self.family.prompt_holds_images(arguments) or self.family.images_in_prompts == "apart":
            return half
        embeddings = arguments.get("prompt_embeds")
        if embeddings is None:
            length = text_embeddings(encoded, 1)[0].shape[1] if half.text is not None else 0
            return replace(half, vision=_left(half.text, length))
        known = [entry.vision for entry in self._known if entry.held() is embeddings]
        return replace(half, vision=known[0] if known else None)

    def _note(self, halves: Sequence[Half], encoded: Any) -> None:
        """Remember what `encode_prompt` returned for the branches of guidance, the prompt's first."""
        first = not any(entry.in_run == self.in_run for entry in self._known)
        self._encodings += 1
        made = text_embeddings(encoded, len(halves))
        for embeddings, half in zip(made, halves, strict=False):
            fits = half.text is None or len(half.text.conditional) == len(embeddings)
            text, branch = (half.text, half.branch) if fits else (None, None)
            self._known.append(Encoded(embeddings, text, branch, self.in_run, half.vision))
        self._halves = list(halves) if first else []
        if self._encodings > 2 and halves and not halves[0].certain:  # no pair of a prompt and its negative prompt
            for entry in self._known:
                entry.branch = None

    def carried(self, embeddings: Any, batch: int, length: int) -> CarriedPrompts:
        """What a call with these text embeddings carries; ``length`` is the number of its text positions."""
        self._used = True
        version = getattr(embeddings, "_version", 0) if not isinstance(embeddings, Tensor) else _version(embeddings)
        key = (batch, length, version, self._guided())
        if self._latest is None or self._latest[0] is not embeddings or self._latest[1] != key:
            self._latest = (embeddings, key, self._found(embeddings, batch, length))
        return self._latest[2]

    def _guided(self) -> str | None:
        """The branch that the running pipeline's guider is at; None if it has none."""
        return guided_branch(self.caller) if self.in_run else None

    def text(self, embeddings: Any, batch: int, length: int) -> TextTokens | None:
        """What the text positions of a call with these text embeddings hold; ``length`` is their number.

        None before the pipeline has encoded a prompt, if it was given embeddings, or if the batch size or the number of
        positions differs.
        """
        return self.carried(embeddings, batch, length).text

    def _by_ids(self, ids: Any) -> CarriedPrompts:
        """The prompt whose token ids a call was given; both branches' prompts being the same, the branch is unknown."""
        told = tuple(ids.tolist()) if isinstance(ids, Tensor) else ()
        found = [(number, half) for number, half in enumerate(self._halves) if half.ids == told]
        if not told or not found:
            return CarriedPrompts()
        number, half = found[0]
        branches = np.array([half.branch], object) if len(found) == 1 else None
        return CarriedPrompts(half.text, branches, np.array([number]), 1)

    def _found(self, embeddings: Any, batch: int, length: int) -> CarriedPrompts:
        if self.family.by_ids:
            return self._by_ids(embeddings)
        known = [entry for entry in self._known if entry.in_run] or self._known if self.in_run else self._known
        rows = recognized(known, embeddings, batch)
        if rows is None:
            by_row = isinstance(embeddings, list | tuple | Tensor) and len(embeddings) == batch
            if self._recognizes and by_row:
                return CarriedPrompts()
            known = self._passed_on(embeddings, batch, length)
            rows = recognized(known, embeddings, batch)
            if rows is None:
                return self._by_number(batch, length)
        else:
            self._recognizes = True
        branches = self._branches(known, rows)
        text = None if branches is None else text_of(known, rows)
        vision = _only({known[number].vision for found in rows for number, _ in found})
        text = None if text is None or branches is None else text.without_padding(length - (vision or 0))
        text = None if text is None or branches is None else text.with_branches(branches == CONDITIONAL)
        numbers = {place: number for number, place in enumerate(sorted({min(found) for found in rows}))}
        source = np.array([numbers[min(found)] for found in rows])
        prompts = sum(len(entry.held()) for entry in known if entry.branch == CONDITIONAL and entry.held() is not None)
        return CarriedPrompts(text, branches, source, prompts, vision)

    def _passed_on(self, embeddings: Any, batch: int, length: int) -> list[Encoded]:
        """The latest batch that was filled by number, in the embeddings that the transformer was given.

        LTX-2 sends what it encoded through a model of its own; the transformer is given both branches, then the prompt's again.
        """
        carried = self._by_number(batch, length)
        if carried.branches is not None and isinstance(embeddings, Tensor) and len(embeddings) == batch:
            self._passed = []
            for branch in (CONDITIONAL, UNCONDITIONAL):
                rows = carried.branches == branch
                text = None if carried.text is None else carried.text.rows(rows)
                if rows.any():
                    own = embeddings[torch.from_numpy(rows).to(embeddings.device)]
                    self._passed.append(Encoded(own, text, branch, self.in_run, carried.vision))
        return self._passed

    def _branches(self, known: Sequence[Encoded], rows: Sequence[Sequence[tuple[int, int]]]) -> np.ndarray | None:
        """Each batch row's branch: what a modular pipeline's guider is at, else that of its embeddings; if these can be of both,
        by the order in which one encoding fills the batch."""
        guided = self._guided()
        if guided is not None:
            return np.full(len(rows), guided, object)
        possible = [{known[number].branch for number, _ in found} for found in rows]
        if any(None in branches for branches in possible):
            return None
        if all(len(branches) == 1 for branches in possible):
            return np.array([next(iter(branches)) for branches in possible], object)
        order = self._by_number(len(rows), 0).branches
        fits = order is not None and all(branch in found for branch, found in zip(order, possible, strict=True))
        return order if fits else None

    def _by_number(self, batch: int, length: int) -> CarriedPrompts:
        """What one encoding makes of a batch: the negative prompts first, as pipelines put them; unknown otherwise."""
        halves = self._halves[::-1]
        if not halves or any(half.rows is None or half.branch is None for half in halves):
            return CarriedPrompts()
        branches = np.concatenate([np.full(half.rows or 0, half.branch, object) for half in halves])
        if len(branches) != batch:
            return CarriedPrompts()
        texts = [half.text for half in halves if half.text is not None]
        text = join_rows(texts) if len(texts) == len(halves) and length else None
        vision = _only({half.vision for half in halves})
        if vision is None:
            vision = _left(text, length)
        text = None if text is None else text.without_padding(length - (vision or 0))
        return CarriedPrompts(text, branches, vision=vision)


def _left(text: TextTokens | None, length: int) -> int | None:
    """How many of ``length`` positions the text leaves to images before it; None if that is unknown."""
    return length - len(text.encoders) if text is not None and len(text.encoders) <= length else None


def _only(values: set[int | None]) -> int | None:
    """The one value; None if there are several."""
    return values.pop() if len(values) == 1 else None


def _kept(value: Any) -> Any:
    """An argument as it was given: some pipelines write their template into the list of prompts."""
    texts = isinstance(value, list) and all(isinstance(text, str | None) for text in value)
    return list(value) if texts else value


def _version(tensor: Tensor) -> int:
    """How often the tensor has been written to; 0 in inference mode, where that is not counted."""
    return 0 if tensor.is_inference() else tensor._version


def _is(value: Any, other: Any) -> bool:
    if value is None or isinstance(value, Tensor) or isinstance(other, Tensor):
        return value is other
    return bool(value is other or (type(value) is type(other) and value == other and isinstance(value, str | list)))
