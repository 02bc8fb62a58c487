"""Perturbed guidance: away from the prediction with one layer's attention to text blurred (Seg4Diff, Eq. 8)."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from ..edits import Edit
from ..families import Pipeline, denoiser_of, named_inputs
from ..pipelines.encoded import CONDITIONAL
from .batch_rows import alike, by_name, stacked, with_rows
from .probe import Probe


class PerturbedGuidance:
    """Guides an ordinary pipeline call inside the with block: ``eps + scale (eps - eps_perturbed)``.

    The perturbed prediction is made for the prompt's batch rows alone. The guidance term is added to both branches of
    classifier-free guidance, so that it is not multiplied by that guidance's scale w:

        eps = eps_negative + w (eps_prompt - eps_negative) + scale (eps_prompt - eps_perturbed)

    If a pipeline predicts for the negative prompt in a call of its own, the term of the prompt's call is added there.

    Args:
        pipe: a pipeline.
        edits: the perturbation; copied, and applied to the perturbed batch rows alone, whatever their ``batch``.
        scale: strength, in -100 to 100; 0 changes nothing, bit for bit.
        batched: compute perturbed rows in the same transformer call; False uses a call of its own, which needs less
            memory.

    Raises:
        ValueError: a setting is invalid; inside the with block, if the negative prompt's call comes before the
            prompt's.

    >>> from mmdit_probe import BlurText, load_pipeline
    >>> from mmdit_probe.probe import PerturbedGuidance
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with PerturbedGuidance(pipe, [BlurText(7)], scale=2.0):
    ...     guided = pipe("a red circle on grass", num_inference_steps=2, output_type="np").images[0]
    >>> guided.shape
    (64, 64, 3)
    """

    def __init__(self, pipe: Pipeline, edits: Sequence[Edit], scale: float, *, batched: bool = True) -> None:
        if not -100 <= scale <= 100:
            raise ValueError(f"guidance: scale must be in -100 to 100, got {scale}")
        if not edits:
            raise ValueError("guidance: give at least one edit, such as BlurText(layer)")
        self.scale, self.batched = scale, batched
        self.transformer: nn.Module = denoiser_of(pipe)
        self.edits = [copy.copy(edit) for edit in edits]  # their batch rows are set for each call
        for edit in self.edits:
            edit.batch = ()
        self.probe = Probe(pipe, [], edits=self.edits)
        self.pipe = pipe
        self._given: dict[str, Any] = {}
        self._rows: list[int] | None = None
        self._term: Tensor | None = None
        self._inside = False
        self._thread = threading.get_ident()
        self._exit: ExitStack | None = None

    def __enter__(self) -> PerturbedGuidance:
        if self.scale == 0:
            return self
        self._given, self._term, self._thread = {}, None, threading.get_ident()
        with ExitStack() as stack:
            before = self.transformer.register_forward_pre_hook(self._widen, with_kwargs=True)
            stack.callback(before.remove)
            after = self.transformer.register_forward_hook(self._guide, with_kwargs=True)
            stack.callback(after.remove)
            stack.enter_context(self.probe)
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        exit_, self._exit = self._exit, None
        self._given, self._term = {}, None
        if exit_ is not None:
            exit_.close()

    def _widen(self, module: nn.Module, args: Any, kwargs: Any = None) -> Any:
        if self._inside or threading.get_ident() != self._thread or not self._guides(module, args, kwargs):
            return None
        given = by_name(module, args, kwargs)
        again = self._is_same_step(given)
        self._given, self._rows = given, None if again else self._prompt_rows(module, given)
        if self._rows is None or not self.batched:
            return None
        batch = self._batch(given)
        self._edit_rows(range(batch, batch + len(self._rows)))
        return (), with_rows(given, batch, [*range(batch), *self._rows])

    def _guide(self, module: nn.Module, args: Any, kwargs: Any, output: Any = None) -> Any:
        if self._inside or threading.get_ident() != self._thread or not self._guides(module, args, kwargs):
            return None
        predicted, batch = stacked(output[0]), self._batch(self._given)
        plain = predicted[:batch]
        if self._rows is not None:
            perturbed = predicted[batch:] if self.batched else self._perturbed(module, batch)
            self._term = self.scale * (plain[self._rows] - perturbed)
        self._edit_rows(())
        term = cast(Tensor, self._term)  # made by the step's first call
        guided = plain + term.repeat(batch // len(term), *[1] * (term.dim() - 1))
        made: Any = list(guided) if isinstance(output[0], list) else guided
        return (made,) if isinstance(output, tuple) else type(output)(made)

    def _guides(self, module: nn.Module, args: Any, kwargs: Any) -> bool:
        return self.probe.family.is_step(module, args, kwargs)

    def _batch(self, given: Mapping[str, Any]) -> int:
        return len(given[self.probe.family.image_argument])

    def _is_same_step(self, given: Mapping[str, Any]) -> bool:
        """Whether the previous call had the same latents and noise level."""
        names = self.probe.family.image_argument, self.probe.family.timestep_argument
        return self._term is not None and all(alike(given[name], self._given[name]) for name in names)

    def _prompt_rows(self, module: nn.Module, given: Mapping[str, Any]) -> list[int]:
        """The batch rows that carry the prompt.

        If the prompt was not seen (embeddings were given), the second half if both halves have the same latents, else
        all; `ValueError` for pipelines that pass lists of samples, which put the prompt's first.
        """
        batch = self._batch(given)
        branches = self.probe.context.carried(named_inputs(module, (), given)).branches
        if branches is None:
            latents = given[self.probe.family.image_argument]
            twice = batch % 2 == 0 and alike(latents[: batch // 2], latents[batch // 2 :])
            if twice and isinstance(latents, list):
                raise ValueError("guidance: which batch rows carry the prompt is unknown; give prompts, not embeddings")
            return list(range(batch // 2, batch)) if twice else list(range(batch))
        rows: list[int] = np.flatnonzero(branches == CONDITIONAL).tolist()
        if not rows:
            raise ValueError(
                f"guidance: {type(self.pipe).__name__} predicts for the negative prompt first, before the guidance term "
                f"is known; turn its guidance off"
            )
        return rows

    def _perturbed(self, module: nn.Module, batch: int) -> Tensor:
        rows = self._rows or []
        self._inside = True
        try:
            self._edit_rows(range(len(rows)))
            return stacked(module(**with_rows(self._given, batch, rows))[0])
        finally:
            self._inside = False

    def _edit_rows(self, rows: Sequence[int]) -> None:
        for edit in self.edits:
            edit.batch = tuple(rows)
