"""WFDB in: header, samples and annotations of one record, verified, in millivolts.

Two ways to the same numbers:

* the *plain* way, for records whose signals all stand in one file of format 16 (``.dat``, or MATLAB v4
  ``.mat`` written as ``16+24``): our own header parser and NumPy, because wfdb spends 80 % of a read on
  looking up header fields;
* everything else, and every header that the plain parser doesn't understand in full, goes to wfdb, which is
  asked for nothing but the numbers as they stand in the file. Skew, rates, segments, gains and checksums are
  dealt with here, because a piece of a record must be what the whole record has in that place.

Bad units and gains refuse a record only where their signal is used: see :func:`scale.refuse_unusable`. Files are
taken for what they may be, hostile: nothing is allocated, opened or followed on a header's word alone.

Only this wing imports wfdb, and only here do the words "segment" and "frame" mean what WFDB means by them.
"""
