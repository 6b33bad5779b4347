"""WFDB in: header, samples and annotations of one record, verified, in millivolts.

Two ways to the same numbers:

* the *plain* way, for records whose signals all stand in one file of format 16 (``.dat``, or MATLAB v4
  ``.mat`` written as ``16+24``): NumPy, because wfdb spends 80 % of a read on looking up header fields;
* everything else goes to wfdb, which is asked for nothing but the numbers as they stand in the file, by a header that
  we write for it. Headers, skew, rates, segments, gains and checksums are dealt with here, because a piece of a record
  must be what the whole record has in that place.

What is said of a record that is refused holds positions, numbers and words of ours; never what its header says, and
never a path: both may hold a patient's name. Signals, segments and files are counted from 0, as WFDB does.

Bad units and gains refuse a record only where their signal is used: see :func:`scale.refuse_unusable`. Files are
taken for what they may be, hostile: nothing is allocated, opened or followed on a header's word alone.

Only this wing imports wfdb, and only here do the words "segment" and "frame" mean what WFDB means by them.
"""
