"""Generators and judges of synthetic text, behind protocols that all stages share."""
