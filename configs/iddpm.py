"""The config `iddpm`; see jaxdiff/config/ready/iddpm.py."""

from jaxdiff.config.ready.iddpm import get_config as get_config
