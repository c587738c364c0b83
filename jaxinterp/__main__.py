"""`python -m jaxinterp` is the `jaxinterp` command."""

from jaxinterp.cli import main

main()
