"""Stages of alignment on files of data: SFT, reward models, DPO, IPO and RPO."""
