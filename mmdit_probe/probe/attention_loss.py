"""AttentionLoss: generation steered by the gradient of a loss on where the image looks at words."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ..attention.intercept import in_backward
from ..families import Pipeline, changed_steps, denoiser_of, predicts_noise
from .batch_rows import alike, by_name, stacked, with_rows
from .calls import TransformerCall
from .probe import Probe
from .subject_losses import LOSSES, LossName, SubjectLoss
from .subject_reading import SubjectReader

Moves = Literal["velocity", "latents"]


class AttentionLoss:
    """Moves what an ordinary pipeline call samples against the gradient of a loss on its I2T probabilities, inside the with block.

    At each of its steps the prompt's batch rows run once more, up to the last of ``layers``; the loss is taken of the exact
    probabilities with which image queries attend to the subjects' tokens in the joint softmax, its gradient of the latents.

        velocity: v <- v + strength g              (the next latents move against g; FOCUS)
        latents:  x <- x - strength g, before v(x) (Attend-and-Excite)

    g is the gradient, with ``normalize`` scaled to the RMS of what is moved, so that strength is a share of it.

    Args:
        pipe: a pipeline.
        subjects: words or phrases of the prompt; "dog#2" is the second dog.
        layers: layer numbers to read, whose probabilities are averaged; None for all.
        loss: "apart" (FOCUS), "excite" (Attend-and-Excite), or a function from `SubjectMaps` to a scalar tensor.
        strength: how far, 0 or more; 0 changes nothing, bit for bit.
        moves: "velocity" or "latents".
        normalize: whether g is scaled; False takes the gradient as it is, as published.
        steps: sampling steps to move at, from 0; None for all. At others nothing changes, bit for bit.

    Attributes:
        values: by step, the loss of each prompt before the move, (prompts,).

    Raises:
        ValueError: a setting is invalid; inside the with block, if a subject is not in the prompt, gradients are turned off
            by inference mode, or the latents of this pipeline or scheduler can't be moved.

    Edits of the attention by other probes do not act on the loss. Prompts of one batch are moved each by its own loss.

    >>> from mmdit_probe import AttentionLoss, load_pipeline
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with AttentionLoss(pipe, ["red circle", "blue square"], layers=[6, 7], steps=[0]) as moved:
    ...     _ = pipe("a red circle and a blue square on grass", num_inference_steps=2, output_type="latent")
    >>> 0 <= moved.values[0].item() <= 1
    True
    """

    def __init__(
        self,
        pipe: Pipeline,
        subjects: Sequence[str],
        *,
        layers: Collection[int] | None = None,
        loss: LossName | SubjectLoss = "apart",
        strength: float = 0.1,
        moves: Moves = "velocity",
        normalize: bool = True,
        steps: Collection[int] | None = None,
    ) -> None:
        if isinstance(subjects, str) or not subjects or not all(subjects):
            raise ValueError(
                f"AttentionLoss: subjects must be a list of words or phrases of the prompt, got {subjects!r}"
            )
        if isinstance(loss, str) and loss not in LOSSES:
            raise ValueError(f"AttentionLoss: loss must be {', '.join(LOSSES)} or a function, got {loss!r}")
        if loss == "apart" and len(subjects) < 2:
            raise ValueError(f"AttentionLoss: apart needs at least two subjects, got {len(subjects)}")
        if moves not in get_args(Moves):
            raise ValueError(f"AttentionLoss: moves must be {' or '.join(get_args(Moves))}, got {moves!r}")
        if not 0 <= strength < float("inf"):
            raise ValueError(f"AttentionLoss: strength must be 0 or more, got {strength}")
        self.subjects, self.strength, self.normalize = tuple(subjects), strength, normalize
        self.moves: Moves = moves
        self.steps = None if steps is None else frozenset(steps)
        self.pipe = pipe
        self.transformer: nn.Module = denoiser_of(pipe)
        self.probe = Probe(pipe, [], layers=layers)
        if not self.probe.layers:
            raise ValueError("AttentionLoss: give at least one layer, or None for all")
        self.reader = SubjectReader(self.probe, self.subjects, LOSSES[loss] if isinstance(loss, str) else loss)
        self.values: dict[int, np.ndarray] = {}
        self._pending: _Move | None = None
        self._stepped = False
        self._thread = threading.get_ident()
        self._exit: ExitStack | None = None

    def __enter__(self) -> AttentionLoss:
        if self._exit is not None:
            raise ValueError("AttentionLoss: this one is open already; make a second one to nest them")
        self.values, self._pending, self._stepped = {}, None, False
        if self.strength == 0:
            return self
        if self.moves == "velocity" and not predicts_noise(self.pipe):
            raise ValueError(
                "AttentionLoss: this scheduler is given predictions that do not point from image to noise; take "
                "moves='latents'"
            )
        self._thread = threading.get_ident()
        with ExitStack() as stack:
            stack.enter_context(self.probe)  # first, so that it knows the call when we are asked
            stack.enter_context(changed_steps(self.pipe, self._step))
            before = self.transformer.register_forward_pre_hook(self._before, with_kwargs=True)
            stack.callback(before.remove)
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        exit_, self._exit = self._exit, None
        unused, self._pending = self._pending is not None and not self._stepped, None
        if exit_ is not None:
            exit_.close()
        if unused and kind is None:
            raise _not_stepped(self.pipe)

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        call = self.probe.running
        if threading.get_ident() != self._thread or in_backward() or call is None:
            return None
        if self.steps is not None and call.step not in self.steps:
            return None
        given, rows = by_name(module, args, kwargs), self._rows(call)
        name, same_step = (
            self.probe.family.image_argument,
            self._pending is not None and self._pending.step == call.step,
        )
        if not rows:
            return self._moved_call(given, name) if same_step else self._too_early()
        if self._pending is not None and not self._stepped:
            raise _not_stepped(self.pipe)
        self._pending = self._move(call, given, rows)
        return self._moved_call(given, name)

    def _rows(self, call: TransformerCall) -> list[int]:
        """The batch rows that carry the prompt; `ValueError` if that, or what their tokens are, is unknown."""
        if call.text is None or call.conditional is None:
            raise ValueError(
                f"AttentionLoss: the prompt's tokens are needed, and words are {self.probe.context.words([call])}"
            )
        rows: list[int] = np.flatnonzero(call.conditional).tolist()
        return rows

    def _too_early(self) -> None:
        if self.moves == "latents":
            raise ValueError(
                f"AttentionLoss: {type(self.pipe).__name__} predicts for the negative prompt first, before it is known how "
                f"the latents move; take moves='velocity', or turn its guidance off"
            )

    def _move(self, call: TransformerCall, given: Mapping[str, Any], rows: list[int]) -> _Move:
        if torch.is_inference_mode_enabled():
            raise ValueError(
                "AttentionLoss: inference mode keeps no gradients; call the pipeline under torch.no_grad()"
            )
        name = self.probe.family.image_argument
        chosen = with_rows(given, len(given[name]), rows)
        kept = stacked(chosen[name]).detach()
        with torch.enable_grad():
            latents = kept.clone().requires_grad_(True)
            chosen[name] = list(latents.unbind()) if isinstance(given[name], list) else latents
            losses = self.reader.losses(call, chosen, rows)
            (gradient,) = torch.autograd.grad(losses.sum(), latents)
        if not gradient.isfinite().all():
            raise ValueError(
                f"AttentionLoss: the gradient of step {call.step} is not finite; take --dtype fp32 or bf16"
            )
        self.values[call.step] = losses.detach().float().cpu().numpy()
        gradient = gradient.float()
        if self.normalize:
            gradient = gradient / _rms(gradient).clamp(min=torch.finfo(torch.float32).tiny)
        return _Move(call.step, kept, gradient, self.strength, self.normalize)

    def _moved_call(self, given: dict[str, Any], name: str) -> Any:
        """The call at the moved latents, in all batch rows that hold them; None where the velocity is moved."""
        move = self._pending
        if self.moves == "velocity" or move is None:
            return None
        latents = stacked(given[name])
        if not alike(latents, move.latents) or len(latents) % len(move.latents):
            raise ValueError(
                f"AttentionLoss: the batch rows of {type(self.pipe).__name__} do not hold the prompts' latents in turn; take "
                f"moves='velocity'"
            )
        moved = torch.cat([move.away(part) for part in latents.split(len(move.latents))])
        return (), {**given, name: list(moved.unbind()) if isinstance(given[name], list) else moved}

    def _step(self, predicted: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
        move, self._pending = self._pending, None
        if move is None or threading.get_ident() != self._thread:
            return predicted, sample
        self._stepped = True
        if move.latents.numel() != sample.numel() or not torch.equal(
            move.latents.reshape(sample.shape), sample.to(move.latents)
        ):
            raise ValueError(
                f"AttentionLoss: {type(self.pipe).__name__} does not give the transformer the scheduler's latents as they are, "
                f"so that it is not known how to move them"
            )
        if self.moves == "latents":
            return predicted, move.away(sample)
        return move.along(predicted), sample


@dataclass(frozen=True, eq=False)
class _Move:
    """The gradient of one step's loss, (prompts, ...) in fp32, of the latents as the transformer was given them."""

    step: int
    latents: Tensor
    gradient: Tensor
    strength: float
    relative: bool

    def along(self, values: Tensor) -> Tensor:
        """Values of the latents' size, with strength times the gradient added."""
        size = _rms(values.float()) if self.relative else 1.0
        return (values.float() + self.strength * size * self.gradient.reshape(values.shape)).to(values.dtype)

    def away(self, values: Tensor) -> Tensor:
        """Values of the latents' size, with strength times the gradient taken away."""
        size = _rms(values.float()) if self.relative else 1.0
        return (values.float() - self.strength * size * self.gradient.reshape(values.shape)).to(values.dtype)


def _rms(values: Tensor) -> Tensor:
    """(batch, 1, ...) root mean square of each batch row."""
    return values.flatten(1).square().mean(1).sqrt().reshape(-1, *[1] * (values.dim() - 1))


def _not_stepped(pipe: Pipeline) -> ValueError:
    return ValueError(
        f"AttentionLoss: {type(pipe).__name__} does not step by its scheduler's step, so that nothing was moved; its latents "
        f"can't be reached"
    )
