"""The config `digits_flow`; see jaxdiff/config/ready/digits_flow.py."""

from jaxdiff.config.ready.digits_flow import get_config as get_config
