"""What was found and what would be changed, as text, JSON and SARIF. Nothing here decides anything."""
