"""The config `nag_finetune`; see jaxdiff/config/ready/nag_finetune.py."""

from jaxdiff.config.ready.nag_finetune import get_config as get_config
