"""`jaxdiff sample` from a clone; see jaxdiff/commands/sample.py."""

from jaxdiff.commands.main import main

main("sample")
