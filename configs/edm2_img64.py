"""The config `edm2_img64`; see jaxdiff/config/ready/edm2_img64.py."""

from jaxdiff.config.ready.edm2_img64 import get_config as get_config
