"""`python -m jaxdiff`: the same as the command `jaxdiff`."""

from jaxdiff.commands.main import main

if __name__ == "__main__":
    main()
