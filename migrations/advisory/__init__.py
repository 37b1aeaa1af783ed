"""What else parts a fork from official code: reported, never rewritten. `aNN_name.py` holds `ADVISORY`."""
