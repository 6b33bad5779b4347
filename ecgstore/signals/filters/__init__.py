"""ROOM: one filter per file. Each file holds ``Settings`` and one of two functions.

``gain(freqs_hz, fs_hz, settings)``, a curve: the zero-phase amplitude response at ``freqs_hz`` (float64, no unit)
for a signal of rate ``fs_hz``. Conditioning multiplies neighbouring curves and applies them at once.

``stage(signal_mv_lt, fs_hz, settings)``, for what is no curve: float32 (leads, samples) in mV without NaN → the same
shape, lead by lead, so that leads of several records may stand below each other.

For long records a file says with ``reach_s(settings)`` how many seconds away a sample still acts by more than 1e-5.
A file without it, or one that returns None, needs the whole record at once.
"""

import math

#: So many time constants until an exponential has fallen to 1e-5.
SETTLED = math.log(1e5)
