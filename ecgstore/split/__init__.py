"""Folds for a sealed store, drawn by patient: in balance by codes or a column, or one for each site."""
