"""The config `openmoji`; see jaxdiff/config/ready/openmoji.py."""

from jaxdiff.config.ready.openmoji import get_config as get_config
