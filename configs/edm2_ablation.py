"""The config `edm2_ablation`; see jaxdiff/config/ready/edm2_ablation.py."""

from jaxdiff.config.ready.edm2_ablation import get_config as get_config
