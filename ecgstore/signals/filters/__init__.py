"""ROOM: one filter per file. Each file holds ``Settings`` and one of two functions.

``gain(freqs_hz, fs_hz, settings)``, a curve: the zero-phase amplitude response at ``freqs_hz`` (float64, no unit)
for a signal of rate ``fs_hz``. Conditioning multiplies neighbouring curves and applies them at once. Curves of this
room don't look at ``fs_hz``: a filter that hangs on the rate writes a database's rate into its signals.

``stage(signal_mv_lt, fs_hz, settings)``, for what is no curve: float32 (leads, samples) in mV without NaN → the same
shape, lead by lead, so that leads of several records may stand below each other.

For long records a file says with ``reach_s(settings)`` how many seconds away a sample still acts by more than 1e-5.
A file without it, or one that returns None, needs the whole record at once.
"""

import math
from typing import Literal

#: Whose response a curve has. Stored with each filter, because a curve is part of what was done to a record: stores
#: that lack the word have the response of digital filters at their source's rate (bilinear), and are another recipe.
Response = Literal["analogue"]

#: So many time constants until an exponential has fallen to 1e-5.
SETTLED = math.log(1e5)
