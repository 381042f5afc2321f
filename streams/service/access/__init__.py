"""Who may do what: keys, sessions, roles, the audit trail."""
