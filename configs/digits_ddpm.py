"""The config `digits_ddpm`; see jaxdiff/config/ready/digits_ddpm.py."""

from jaxdiff.config.ready.digits_ddpm import get_config as get_config
