"""Several networks that look at the same window, each by itself; their features stand one after the other.

Made of networks that were pretrained apart, it is what they know together: ``init_from: [RUN, RUN]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import Annotated, Any, Literal, Self, cast

import torch
from pydantic import BeforeValidator, Field, NonNegativeInt, SerializeAsAny, model_validator
from torch import Tensor, nn
from torch.nn import functional

import ecgstore
from ecgstore import ConfigError
from ecgstore.inner import occupant, parse
from ecgtrain.backbones import Backbone
from ecgtrain.backbones.layers.features import Features

DESCRIPTION = "several networks on the same window; their features one after the other"
NAME = "side_by_side"


def _settings_of(content: Any) -> ecgstore.Settings:
    """The settings of a network, by its file's own."""
    if isinstance(content, ecgstore.Settings):
        return content
    content = {"name": content} if isinstance(content, str) else content
    name = content.get("name") if isinstance(content, Mapping) else None
    if not isinstance(name, str) or name.endswith(".py") or name == NAME:
        raise ConfigError("side_by_side is made of mappings with the name of another backbone", got=repr(content)[:200])
    chosen: type[ecgstore.Settings] = occupant(__package__, name).Settings
    return parse(chosen, content)


class Part(ecgstore.Settings):
    """One of the networks.

    ``network``: a backbone's name, or its settings. ``first_row`` and ``n_rows``: which rows of the window it sees; by
    default all of them.
    """

    network: Annotated[SerializeAsAny[ecgstore.Settings], BeforeValidator(_settings_of)]
    first_row: NonNegativeInt = 0
    n_rows: Annotated[int, Field(ge=1)] | None = None


class Settings(ecgstore.Settings):
    """The networks, in order.

    ``parts``: each with the rows of the window that it sees. By default the networks of CPC and of LCD.
    """

    name: Literal["side_by_side"] = "side_by_side"
    parts: Annotated[tuple[Part, ...], Field(min_length=2, max_length=4)] = Field(
        default=({"network": "cpc_lstm"}, {"network": "vgg1d"}), validate_default=True
    )

    @model_validator(mode="after")
    def _rows(self) -> Self:
        if any(part.first_row and part.n_rows is None for part in self.parts):
            raise ValueError("first_row needs n_rows")
        return self


class SideBySide(Backbone):
    """Tokens are those of all networks, one after the other, filled up with zeros to the width of the widest."""

    def __init__(self, settings: Settings, n_leads: int) -> None:
        super().__init__()
        self.n_leads = n_leads
        self.rows: list[slice] = []
        self.parts = nn.ModuleList()
        for part in settings.parts:
            n_rows = n_leads if part.n_rows is None else part.n_rows
            if part.first_row + n_rows > n_leads:
                raise ConfigError(
                    "a network of side_by_side sees rows that are not there",
                    expected=f"at most {n_leads}",
                    got=part.first_row + n_rows,
                )
            room = occupant(__package__, cast(Any, part.network).name)
            network = cast(Backbone, room.build(part.network, n_rows))
            network.settings = part.network
            self.parts.append(network)
            self.rows.append(slice(part.first_row, part.first_row + n_rows))
        self.width = max(network.width for network in self._networks())
        self.pooled_width = sum(network.pooled_width for network in self._networks())

    def _networks(self) -> list[Backbone]:
        return [cast(Backbone, network) for network in self.parts]

    def forward(self, x_blt: Tensor) -> Features:
        """The features of all networks."""
        each = [network(x_blt[:, rows]) for network, rows in zip(self.parts, self.rows, strict=True)]
        tokens = [functional.pad(one.tokens_bsd, (0, self.width - one.tokens_bsd.shape[2])) for one in each]
        return Features(torch.cat(tokens, dim=1), torch.cat([one.pooled_bd for one in each], dim=1))

    def networks(self) -> list[nn.Module]:
        """Those of each."""
        return [one for network in self._networks() for one in network.networks()]

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """The first groups of all networks together, then the second ones, and so on."""
        each = [network.layer_groups() for network in self._networks()]
        return [[parameter for its in groups for parameter in its] for groups in zip_longest(*each, fillvalue=[])]


def build(settings: Settings, n_leads: int) -> SideBySide:
    """Make the networks with fresh weights from torch's generator, in order."""
    return SideBySide(settings, n_leads)
