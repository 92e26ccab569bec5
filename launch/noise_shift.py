"""`jaxdiff noise_shift` from a clone; see jaxdiff/commands/noise_shift.py."""

from jaxdiff.commands.main import main

main("noise_shift")
