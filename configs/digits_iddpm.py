"""The config `digits_iddpm`; see jaxdiff/config/ready/digits_iddpm.py."""

from jaxdiff.config.ready.digits_iddpm import get_config as get_config
