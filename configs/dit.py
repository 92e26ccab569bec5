"""The config `dit`; see jaxdiff/config/ready/dit.py."""

from jaxdiff.config.ready.dit import get_config as get_config
