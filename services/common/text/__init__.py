"""Rows of text: how they are spelled in files, and the few canonical shapes that they are trained in."""
