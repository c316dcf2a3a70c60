"""Training jobs as their callers see them: made, read, watched, cancelled, resumed, deleted."""
