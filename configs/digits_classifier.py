"""The config `digits_classifier`; see jaxdiff/config/ready/digits_classifier.py."""

from jaxdiff.config.ready.digits_classifier import get_config as get_config
