"""The command line of the data house, verb by verb. Only this wing prints.

Exit status: 0 done, 1 an error that the message explains, 2 wrong usage, 3 done but more records were left
out than allowed, 130 interrupted.
"""

from __future__ import annotations

import click

from ecgstore import __version__
from ecgstore.cli import beats, bring, cards, lineage, look, make, sharing, sidecars, simulating, splitting, viewing
from ecgstore.cli.examples import add_examples
from ecgstore.terminal import PlainUsage, completion_of


@click.group(cls=PlainUsage, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "ECGSTORE"})
@click.version_option(__version__, prog_name="ecgstore")
def main() -> None:
    """Raw WFDB folders to a sealed, verified, shareable Zarr store of ECGs."""


for wing in (make, beats, lineage, simulating, splitting, look, viewing, cards, sidecars, bring, sharing):
    for verb in wing.VERBS:
        main.add_command(verb)
main.add_command(completion_of("ecgstore"))
add_examples(main)
