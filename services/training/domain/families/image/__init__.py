"""Families that read images: `pixels` decodes them, `network` is the ResNet, `model` what training gives."""
