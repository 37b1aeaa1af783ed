"""The seven migrations, one module (or package) each: `m0006_weight_decay.py` holds `MIGRATION`."""
