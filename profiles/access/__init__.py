"""Who may come in and do what, how often, and the audit trail of it."""
