"""The config `openmoji_ztsnr`; see jaxdiff/config/ready/openmoji_ztsnr.py."""

from jaxdiff.config.ready.openmoji_ztsnr import get_config as get_config
