"""``python -m ecgstore``."""

from ecgstore.cli import main

main()
