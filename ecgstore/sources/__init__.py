"""ROOM: one kind of source folder per file. Each file holds:

* ``Settings`` with the source's own options;
* ``is_here(root) -> bool``: whether a folder looks like this source (absent: never guessed);
* ``PATIENT_IDS_ARE_PUBLIC = True`` where patients' identifiers are published with the records (absent: a secret key is
  asked for before patients are stored; a source file of a user's own can't say so);
* ``list_records(root, settings) -> Listing``: records in a fixed order, statements, patients, folds, terms.

A source reads tables and names of files; headers and samples are not its business.
"""
