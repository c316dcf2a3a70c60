"""What was decided and why, and how predictions compare with what was measured."""
