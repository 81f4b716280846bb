"""Families that read texts: `tokens` makes numbers of them, `network` is the encoder, `model` what training gives."""
