"""``python -m ecgtrain``."""

from ecgtrain.cli import main

main()
