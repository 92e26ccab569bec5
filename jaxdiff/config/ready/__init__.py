"""Ready configs: --config=digits, or --config=dit:tiny-digits with what follows the colon.

Each module has a function `get_config` and says in its docstring what it trains, and what
was measured. To start from one in a config of your own:

    from jaxdiff.config import from_file

    DIGITS = from_file("digits")
"""
