"""ROOM: one kind of source folder per file. Each file holds:

* ``Settings`` with the source's own options;
* ``is_here(root) -> bool``: whether a folder looks like this source (absent: never guessed);
* ``list_records(root, settings) -> Listing``: records in a fixed order, statements, patients, folds, terms.

A source reads tables and names of files; headers and samples are not its business.
"""
