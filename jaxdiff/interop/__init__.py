"""Bridges to other projects' parameters and models."""
