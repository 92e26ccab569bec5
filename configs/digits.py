"""The config `digits`; see jaxdiff/config/ready/digits.py."""

from jaxdiff.config.ready.digits import get_config as get_config
