"""The config `digits_nag`; see jaxdiff/config/ready/digits_nag.py."""

from jaxdiff.config.ready.digits_nag import get_config as get_config
