"""The config `sit`; see jaxdiff/config/ready/sit.py."""

from jaxdiff.config.ready.sit import get_config as get_config
