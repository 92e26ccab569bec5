"""The config `folder`; see jaxdiff/config/ready/folder.py."""

from jaxdiff.config.ready.folder import get_config as get_config
