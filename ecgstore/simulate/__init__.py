"""Signals whose truth is known by construction."""
