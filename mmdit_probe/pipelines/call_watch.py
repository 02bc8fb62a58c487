"""Sees what pipelines are called with: their `__call__`, their `encode_prompt` and, of modular ones, the steps that encode
prompts, in the thread that looks and no other.

While somebody looks, the classes' methods are wrapped; the wrappers change nothing, and pass calls of other threads
straight through.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import wraps
from typing import Any, Protocol

from diffusers import DiffusionPipeline

from ..families import Pipeline, pipeline_class, step_class
from .modular_steps import encoded_in, request_of

Arguments = dict[str, Any]
_ENCODERS = ("encode_prompt", "encode_prompt_multiple_images")


class Observer(Protocol):
    """Somebody who looks at pipelines' calls."""

    def concerns(self, pipe: Any) -> bool:
        """Whether the calls of this pipeline are of interest."""

    def running(self, pipe: Any, arguments: Arguments) -> AbstractContextManager[Callable[[Any], None] | None]:
        """Entered while the pipeline generates with these arguments; may give a function to call with the result.

        Observers that begin to look in it see this call too.
        """

    def encoding(
        self, pipe: Any, arguments: Arguments, step: Any = None
    ) -> AbstractContextManager[Callable[[Any], None]]:
        """Entered while the pipeline encodes prompts with these arguments; gives a function to call with the result.

        ``step`` is the step of a modular pipeline that encodes.
        """


class _Here(threading.local):
    """The observers of this thread, outermost first."""

    def __init__(self) -> None:
        self.observers: list[Observer] = []


@dataclass
class _Site:
    """A wrapped method: where it stands, what stood there, and how many observers need the wrapper."""

    owner: Any
    name: str
    original: Any
    wrapper: Any
    users: int = 0


_here, _lock = _Here(), threading.RLock()
_tokenizing = threading.RLock()
"""Held while prompts are encoded: tokenizers keep their padding as state, which two threads must not set at once."""
_sites: dict[tuple[int, str], _Site] = {}


@contextmanager
def observed(observer: Observer, pipe: Pipeline | None) -> Iterator[None]:
    """Show ``observer`` the calls of all pipelines that it is concerned with, ``pipe`` among them, in this thread."""
    with ExitStack() as stack:
        for owner, name in _places(pipe):
            _wrap(owner, name)
            stack.callback(_unwrap, owner, name)
        _here.observers.append(observer)
        stack.callback(_here.observers.remove, observer)
        yield


def _places(pipe: Pipeline | None) -> list[tuple[Any, str]]:
    """Where pipelines' calls are defined: the classes known by now, the given pipeline's own, modular pipelines' steps."""
    classes = [*_subclasses(DiffusionPipeline), *(() if pipe is None else type(pipe).__mro__)]
    places: list[tuple[Any, str]] = [
        (owner, name) for owner in classes for name in ("__call__", *_encoders(owner)) if _defines(owner, name)
    ]
    if pipe is not None and "encode_prompt" in getattr(pipe, "__dict__", {}):
        places.append((pipe, "encode_prompt"))
    for kind in (pipeline_class(), step_class()):
        modular = [] if kind is None else _subclasses(kind)
        places += [(owner, "__call__") for owner in modular if _defines(owner, "__call__")]
    return list({(id(owner), name): (owner, name) for owner, name in places}.values())  # some owners have no hash


def _subclasses(kind: type) -> list[type]:
    children: list[type] = type.__subclasses__(kind)
    return [kind, *(below for child in children for below in _subclasses(child))]


def _encoders(owner: type) -> tuple[str, ...]:
    """The methods that encode prompts; JoyImage-Edit has one for prompts with images beside that for prompts without."""
    return _ENCODERS if _defines(owner, _ENCODERS[0]) else ()


def _defines(owner: type, name: str) -> bool:
    method = vars(owner).get(name)
    return inspect.isfunction(method) or isinstance(method, staticmethod)


def _wrap(owner: Any, name: str) -> None:
    with _lock:
        site = _sites.get((id(owner), name))
        if site is None:
            original = vars(owner)[name]
            site = _sites[id(owner), name] = _Site(owner, name, original, _wrapper(owner, name, original))
            setattr(owner, name, site.wrapper)
        site.users += 1


def _unwrap(owner: Any, name: str) -> None:
    with _lock:
        site = _sites[id(owner), name]
        site.users -= 1
        if site.users == 0:
            del _sites[id(owner), name]
            if vars(owner).get(name) is site.wrapper:  # else somebody has put another there
                setattr(owner, name, site.original)


def _wrapper(owner: Any, name: str, original: Any) -> Any:
    """The method, which shows this thread's observers its calls; of an instance's own method the instance is the pipeline."""
    function = original.__func__ if isinstance(original, staticmethod) else original
    steps = step_class()
    if steps is not None and inspect.isclass(owner) and issubclass(owner, steps):
        return _step_wrapper(function)
    bound = not inspect.isclass(owner)
    signature = inspect.signature(function)

    @wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        with _tokenizing if name in _ENCODERS else nullcontext():
            return shown(*args, **kwargs)

    def shown(*args: Any, **kwargs: Any) -> Any:
        if not _here.observers:
            return function(*args, **kwargs)
        try:
            given = signature.bind(*args, **kwargs)
        except TypeError:  # the method itself says what is wrong
            return function(*args, **kwargs)
        given.apply_defaults()
        arguments = dict(given.arguments)
        if bound:
            pipe = owner
        elif next(iter(signature.parameters.values())).kind is inspect.Parameter.VAR_POSITIONAL:
            pipe, arguments = args[0] if args else None, dict(kwargs)  # positional arguments have no names
        else:
            pipe = arguments.pop(next(iter(arguments)))
        return _shown(name, pipe, arguments, lambda: function(*args, **kwargs))

    return staticmethod(watched) if isinstance(original, staticmethod) else watched


def _step_wrapper(function: Any) -> Any:
    """A modular pipeline's step, which shows this thread's observers the prompts that it encodes."""

    @wraps(function)
    def watched(step: Any, pipe: Any, state: Any, *rest: Any, **kwargs: Any) -> Any:
        observers = [observer for observer in _here.observers if observer.concerns(pipe)]
        arguments = request_of(pipe, step, state) if observers else None
        if arguments is None:
            return function(step, pipe, state, *rest, **kwargs)
        with _tokenizing, ExitStack() as stack:
            notes = [stack.enter_context(observer.encoding(pipe, arguments, step)) for observer in observers]
            left = function(step, pipe, state, *rest, **kwargs)
            for note in notes:
                note(encoded_in(state))
            return left

    return watched


def _shown(name: str, pipe: Any, arguments: Arguments, call: Callable[[], Any]) -> Any:
    """The call's result, once the observers of this thread have seen it."""
    for parameter in ("kwargs", "inputs"):  # of methods that take any argument
        extra = arguments.get(parameter)
        arguments |= extra if isinstance(extra, dict) else {}
    notes: list[Callable[[Any], None] | None] = []
    with ExitStack() as stack:
        for observer in _here.observers:  # grows if one of them opens others
            if observer.concerns(pipe):
                entered = observer.running if name == "__call__" else observer.encoding
                notes.append(stack.enter_context(entered(pipe, arguments)))
        made = call()
        for note in notes:
            if note is not None:
                note(made)
        return made
