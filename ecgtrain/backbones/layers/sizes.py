"""How large a network may be said to be: what no memory holds is a slip of the finger."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

#: Channels of a layer, or features.
Width = Annotated[PositiveInt, Field(le=16_384)]
#: Layers of a kind.
Depth = Annotated[PositiveInt, Field(le=1_000)]
