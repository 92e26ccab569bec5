"""The config `edm2_img512`; see jaxdiff/config/ready/edm2_img512.py."""

from jaxdiff.config.ready.edm2_img512 import get_config as get_config
