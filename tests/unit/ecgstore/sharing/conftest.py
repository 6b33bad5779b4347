"""A server for shares."""

from shares import at_s3, between, s3

__all__ = ["at_s3", "between", "s3"]
