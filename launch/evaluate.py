"""`jaxdiff evaluate` from a clone; see jaxdiff/commands/evaluate.py."""

from jaxdiff.commands.main import main

main("evaluate")
