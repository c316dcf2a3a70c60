"""Images: from a zip of one folder per label to tensors, and from guesses to figures that people read."""
