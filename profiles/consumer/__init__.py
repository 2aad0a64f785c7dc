"""The consumer: one member of the group, from message to committed offset."""
