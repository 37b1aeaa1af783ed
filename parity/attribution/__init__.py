"""From a divergence to its cause: the signatures of the seven differences, recognised by their numbers."""
