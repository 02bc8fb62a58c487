"""Perturbed guidance: away from what the model predicts when one layer's words are blurred (Seg4Diff, Eq. 8)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from .edits import Edit
from .families import denoiser_of
from .probe import Probe


class PerturbedGuidance:
    """Inside, an ordinary pipeline call is guided: ``eps + scale (eps - eps_perturbed)``.

    The perturbed prediction is made for the prompt's rows alone, and the guidance term is added to both halves of
    classifier-free guidance, so that it adds to that guidance and is not multiplied by its scale:

        eps = eps_negative + w (eps_prompt - eps_negative) + scale (eps_prompt - eps_perturbed)

    ``scale`` 0 changes nothing, bit for bit. ``batched`` runs the perturbed rows in the same transformer call; False
    runs them in a call of their own, which needs less memory.
    """

    def __init__(self, pipe: Any, edits: Sequence[Edit], scale: float, *, batched: bool = True) -> None:
        if not -100 <= scale <= 100:
            raise ValueError(f"guidance: scale must be in -100 to 100, got {scale}")
        if not edits:
            raise ValueError("guidance: give at least one edit, such as BlurText(layer)")
        self.scale, self.batched = scale, batched
        self.transformer: nn.Module = denoiser_of(pipe)
        self.edits = [copy.copy(edit) for edit in edits]  # their rows are set anew for each call
        for edit in self.edits:
            edit.rows = ()
        self.probe = Probe(pipe, [], edits=self.edits)
        self.pipe = pipe
        self._batch = 0
        self._inside = False
        self._exit: ExitStack | None = None

    def __enter__(self) -> PerturbedGuidance:
        if self.scale == 0:
            return self
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
        if exit_ is not None:
            exit_.close()

    def _conditional(self, batch: int) -> list[int]:
        """The prompt's rows: the second half under classifier-free guidance, else all."""
        guided = bool(getattr(self.pipe, "do_classifier_free_guidance", False))
        return list(range(batch // 2, batch)) if guided else list(range(batch))

    def _widen(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        if self._inside or args:
            return None
        self._batch = kwargs["hidden_states"].shape[0]
        if not self.batched:
            return None
        rows = self._conditional(self._batch)
        self._edit_rows(range(self._batch, self._batch + len(rows)))
        return args, _with_rows(kwargs, self._batch, [*range(self._batch), *rows])

    def _guide(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        if self._inside:
            return None
        predicted: Tensor = output[0]
        rows = self._conditional(self._batch)
        if self.batched:
            plain, perturbed = predicted[: self._batch], predicted[self._batch :]
        else:
            plain, perturbed = predicted, self._perturbed(module, kwargs, rows)
        self._edit_rows(())
        term = self.scale * (plain[rows] - perturbed)
        guided = plain + term.repeat(self._batch // len(rows), *[1] * (term.dim() - 1))
        return (guided,) if isinstance(output, tuple) else type(output)(guided)

    def _perturbed(self, module: nn.Module, kwargs: dict[str, Any], rows: list[int]) -> Tensor:
        self._inside = True
        try:
            self._edit_rows(range(len(rows)))
            return module(**_with_rows(kwargs, self._batch, rows))[0]
        finally:
            self._inside = False

    def _edit_rows(self, rows: Sequence[int]) -> None:
        for edit in self.edits:
            edit.rows = tuple(rows)


def _with_rows(kwargs: Mapping[str, Any], batch: int, rows: list[int]) -> dict[str, Any]:
    """The arguments with the given batch rows; what has no batch axis stays."""

    def chosen(name: str, value: Any) -> Any:
        batched = isinstance(value, torch.Tensor) and value.dim() > 0 and len(value) == batch
        return value[rows] if batched and not name.endswith("_ids") else value

    return {name: chosen(name, value) for name, value in kwargs.items()}
