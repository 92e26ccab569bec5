"""`jaxdiff sanity` from a clone; see jaxdiff/commands/sanity.py."""

from jaxdiff.commands.main import main

main("sanity")
