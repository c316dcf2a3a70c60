"""The node role: rules, verdicts, reservations with their journal, and the approvals that a node signs."""
