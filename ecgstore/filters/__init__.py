"""ROOM: one filter per file. Each file holds ``Settings`` and ``gain(freqs_hz, fs_hz, settings)``.

``gain`` is the zero-phase amplitude response at ``freqs_hz`` (float64, no unit) for a signal of rate
``fs_hz``. A filter is a curve and nothing else; conditioning multiplies the curves and applies them once.
"""
