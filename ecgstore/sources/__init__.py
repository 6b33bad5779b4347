"""ROOM: one kind of source folder per file. Each file holds:

* ``Settings`` with the source's own options;
* ``is_here(root) -> bool``: whether a folder looks like this source (absent: never guessed);
* ``PATIENT_IDS_ARE_PUBLIC = True`` where patients' identifiers are published with the records (absent: a secret key is
  asked for before patients are stored; a source file of a user's own can't say so);
* ``list_records(root, settings) -> Listing``: records in a fixed order, statements, patients, folds, terms;
* ``describe(ref, comments, settings, gains) -> RecordRef``, if headers say more of a record (absent: they don't);
* ``read_header(ref, settings) -> RecordHeader`` and ``read_samples(ref, settings, start, stop)``, both or neither: the
  reader of a source whose records are no WFDB records; see :mod:`ecgstore.sources._reader`.

Without a reader a source reads tables and names of files; headers and samples are not its business.
"""
