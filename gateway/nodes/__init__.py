"""The fleet: nodes register, report, and are looked after."""
