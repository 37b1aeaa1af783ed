"""The corrected DINOv2 training stack: what official code computes, without xformers, FSDP1 or SLURM.

The package imports none of its neighbours (`parity`, `migrations`, `bench`): it can be vendored alone.
"""
