"""Two JSON reports compared: what differs in what was asked for, in the checks, and in each comparison."""
