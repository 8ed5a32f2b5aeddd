"""Who may come in, and what they may do: keys, tenants, roles, the floor."""
