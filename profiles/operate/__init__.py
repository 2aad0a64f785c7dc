"""What an operator runs: provision, audit, redrive."""
