"""The page in a browser that runs a model: where it listens, and what is read of each image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from .generation import SamplingConfig
from .layers import Layers
from .setting import OUTPUT, Setting, Settings
from .single_image import HEAD_GROUPS, KEPT_LAYERS, KEPT_TIMESTEPS
from .timesteps import Timesteps, chosen_timesteps


@dataclass(frozen=True, kw_only=True)
class ServeConfig(Settings):
    """The page of `app`: ``layers`` and ``timesteps`` None are chosen as by `ExploreConfig`; its user gives the seed."""

    host: Annotated[
        str,
        Setting("Address to listen on. 0.0.0.0 lets other machines in, without a password.", OUTPUT),
    ] = "127.0.0.1"
    port: Annotated[
        int | None,
        Setting("Port to listen on.", OUTPUT, low=1, high=65535, default="the first free one from 7860 on"),
    ] = None
    browser: Annotated[bool, Setting("Open the page in the default browser.", OUTPUT)] = False
    layers: Annotated[Layers | None, KEPT_LAYERS] = None
    timesteps: Annotated[Timesteps | None, KEPT_TIMESTEPS] = None
    head_groups: Annotated[int, HEAD_GROUPS] = 8
    sampling: SamplingConfig = SamplingConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.timesteps is not None:
            chosen_timesteps(self.timesteps, (), self.sampling.steps)
