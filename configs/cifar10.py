"""The config `cifar10`; see jaxdiff/config/ready/cifar10.py."""

from jaxdiff.config.ready.cifar10 import get_config as get_config
