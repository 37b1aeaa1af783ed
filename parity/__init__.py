"""Parity testing of a DINOv2 training stack against facebookresearch/dinov2."""
