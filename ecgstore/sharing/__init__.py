"""Stores that several teams share: versions and tags in a folder, in a bucket, or behind a web server.

>>> from ecgstore.sharing import pull, push
>>> push("ptbxl.ecg", "s3://team/ptbxl@v1")             # doctest: +SKIP
>>> pull("s3://team/ptbxl@v1", "ptbxl.ecg")             # doctest: +SKIP

docs/sharing.md says what stands on the other side, and what a reader sees after a crash.
"""

from __future__ import annotations

from ecgstore.sharing.carrying import withdraw_and_push
from ecgstore.sharing.copying import copy
from ecgstore.sharing.differences import diff
from ecgstore.sharing.listing import log, remote
from ecgstore.sharing.pulling import pull
from ecgstore.sharing.pushing import push
from ecgstore.sharing.repairing import repair
from ecgstore.sharing.tagging import tag
from ecgstore.sharing.terms import TermsRefused
from ecgstore.sharing.withdrawing import withdraw

__all__ = [
    "TermsRefused",
    "copy",
    "diff",
    "log",
    "pull",
    "push",
    "remote",
    "repair",
    "tag",
    "withdraw",
    "withdraw_and_push",
]
