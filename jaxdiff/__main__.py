"""`python -m jaxdiff`: the same as the command `jaxdiff`."""

from jaxdiff.commands.main import main

main()
